//! Writes the nftables table that redirects a pod's traffic.
