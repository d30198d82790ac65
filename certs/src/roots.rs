//! The file with the roots of the mesh, and how it goes together with what an authority's answer says.
//!
//! The file is what the authority's own certificate is verified by, and in a cluster it is the mesh's trust bundle, which changes before any
//! leaf does. So its roots are trusted beside those of the answer, if it is that file: if it holds the root of our own leaf. A file with
//! the roots of the web, for an authority behind such a certificate, makes nobody trusted in the mesh.

use rustls_pki_types::CertificateDer;

use crate::bundle::Bundle;
use crate::leaf::Leaf;

/// How the roots of the file and those of an answer relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// They are the same one root.
    Settled,
    /// A root is being exchanged: there are several, or the two differ.
    Changing,
    /// The file says nothing of the mesh.
    Unrelated,
}

/// Returns whom the holder of `leaf` trusts by the `answer` that it came with and the text of the roots file.
#[must_use]
pub fn trusted(leaf: &Leaf, answer: &Bundle, file: &str) -> (Bundle, Agreement) {
    let ours = answer.root_of(leaf);
    let file = Bundle::from_pem(file).ok().filter(|file| {
        file.roots().len() <= MAX_ROOTS && ours.is_some_and(|root| file.roots().contains(root))
    });
    let Some(file) = file else {
        return (answer.clone(), Agreement::Unrelated);
    };
    let further = file
        .roots()
        .iter()
        .filter(|root| !answer.roots().contains(root));
    let further: Vec<CertificateDer<'static>> = further.cloned().collect();
    let same = further.is_empty() && file.roots().len() == answer.roots().len();
    let agreement = match same && file.roots().len() == 1 {
        true => Agreement::Settled,
        false => Agreement::Changing,
    };
    let all = answer.roots().iter().cloned().chain(further);
    // Each of them has been a root before.
    let joined = Bundle::new(all.collect()).unwrap_or_else(|_| answer.clone());
    (joined, agreement)
}

/// A mesh has one or two; more than these are the roots of something else.
const MAX_ROOTS: usize = 16;
