//! Supplies the proxy's identity: CSR API or files, renewed.
