//! Supplies the proxy's identity: CSR API or files, renewed.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::identity::Identity;
use weft_certs::leaf::Leaf;

/// The identity that the proxy has at the moment; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities {
    current: Arc<ArcSwapOption<Identity>>,
}

impl Identities {
    /// The current identity, if there is one yet.
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.current.load_full()
    }

    /// Reads `tls.crt`, `tls.key` and `ca.crt`.
    ///
    /// # Errors
    /// A file is missing or is not what it should be.
    pub(crate) fn load(&self, directory: &Path) -> anyhow::Result<()> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let leaf = Leaf::from_pem(&read("tls.crt")?, &read("tls.key")?)?;
        let trust = TrustBundles::of(
            leaf.id().trust_domain(),
            Bundle::from_pem(&read("ca.crt")?)?,
        );
        let identity = Identity::new(Arc::new(leaf), Arc::new(trust))?;
        self.current.store(Some(Arc::new(identity)));
        Ok(())
    }
}
