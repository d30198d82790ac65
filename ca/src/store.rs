//! Where an issuer is kept: a directory of our own, made when it is empty, or one that somebody else fills.
//!
//! Several replicas may begin on one empty directory at once. Each writes a root beside the place where it belongs and links it there;
//! the link fails for all but the first, and everybody reads what is there afterwards. So there is never a second root, and never
//! half of one. All is read again when it changes, so that roots and issuers are exchanged without a restart.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use tracing::{info, warn};
use weft_certs::bundle::{Bundle, certificates_from_pem};
use weft_policy::spiffe::TrustDomain;

use crate::issuer::{Issuer, IssuerError};

/// A directory with an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Ours: `issuer.pem` is made if it is not there; certificates in `roots/` are trusted as well; `ca.crt` is written for others.
    Own(PathBuf),
    /// Somebody else's, such as a mounted Secret: `tls.crt`, `tls.key` and `ca.crt`.
    Given(PathBuf),
}

/// What a store held when it was read; equal materials make equal issuers.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The issuer's certificate, and those between it and a root, as PEM.
    pub(crate) chain: String,
    /// Its key, as PEM.
    pub(crate) key: String,
    /// All roots that are trusted, that of the issuer first, as PEM.
    pub(crate) roots: String,
    /// Counts the changes of the roots, where somebody counts them.
    pub(crate) sequence: Option<u64>,
}

impl Material {
    /// Makes the issuer of what was read.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn issuer(&self, domain: &TrustDomain) -> Result<Issuer, IssuerError> {
        Issuer::from_pem(domain, &self.chain, &self.key, &self.roots)
    }

    /// The roots that were given out with it; none of what cannot be read.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        certificates_from_pem(&self.roots).unwrap_or_default()
    }
}

impl Store {
    /// Reads what is there; in a directory of our own, makes a root first if there is none.
    ///
    /// # Errors
    /// If a file cannot be read or written, or a root cannot be made.
    pub fn read(&self, domain: &TrustDomain) -> Result<Material, StoreError> {
        match self {
            Self::Own(dir) => read_own(dir, domain),
            Self::Given(dir) => read_given(dir),
        }
    }

    /// Makes the issuer of what was read.
    ///
    /// # Errors
    /// If the issuer cannot be used, with the directory it is in.
    pub fn issuer(&self, material: &Material, domain: &TrustDomain) -> Result<Issuer, StoreError> {
        let unusable = |source| StoreError::Issuer {
            dir: self.dir().to_owned(),
            source,
        };
        material.issuer(domain).map_err(unusable)
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match self {
            Self::Own(dir) | Self::Given(dir) => dir,
        }
    }
}

/// Writes the roots as `ca.crt` into `dir`, readable by all who can enter it, replacing the file at once.
///
/// # Errors
/// If the file cannot be written.
pub fn publish(dir: &Path, issuer: &Issuer) -> Result<(), StoreError> {
    let (path, pem) = (dir.join("ca.crt"), issuer.bundle().to_pem());
    if fs::read_to_string(&path).is_ok_and(|there| there == pem) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let beside = write_beside(&path, &pem, 0o644)?;
    fs::rename(&beside, &path).map_err(failed("write", &path))
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory that cannot be read, written or protected.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An issuer that cannot be used.
    #[error("the issuer in {dir} cannot be used")]
    Issuer {
        /// Where it is.
        dir: PathBuf,
        /// Why not.
        source: IssuerError,
    },
}

fn read_own(dir: &Path, domain: &TrustDomain) -> Result<Material, StoreError> {
    make_private_dir(dir)?;
    let path = dir.join("issuer.pem");
    if !path.exists() {
        make_root(&path, domain)?;
    }
    make_private(&path, 0o600)?;
    let issuer = read(&path)?;
    let roots = format!("{issuer}\n{}", read_roots(&dir.join("roots"))?);
    Ok(Material {
        chain: issuer.clone(),
        key: issuer,
        roots,
        sequence: None,
    })
}

fn read_given(dir: &Path) -> Result<Material, StoreError> {
    Ok(Material {
        chain: read(&dir.join("tls.crt"))?,
        key: read(&dir.join("tls.key"))?,
        roots: read(&dir.join("ca.crt"))?,
        sequence: None,
    })
}

fn make_root(path: &Path, domain: &TrustDomain) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let unusable = |source| StoreError::Issuer {
        dir: dir.to_owned(),
        source,
    };
    let issuer = Issuer::generate(domain).map_err(unusable)?;
    let pem = format!(
        "{}{}",
        issuer.bundle().to_pem(),
        issuer.signer().key().serialize_pem()
    );
    let beside = write_beside(path, &pem, 0o600)?;
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside).map_err(failed("remove", &beside))?;
    match linked {
        Ok(()) => info!(path = %path.display(), %domain, "root created"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            info!(path = %path.display(), "another replica created the root");
        }
        Err(error) => return Err(failed("create", path)(error)),
    }
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed("write", dir))
}

/// Writes and syncs a new file with a name that nobody else uses, in the same directory as `path`.
fn write_beside(path: &Path, text: &str, mode: u32) -> Result<PathBuf, StoreError> {
    let beside = path.with_extension(format!("{:016x}.tmp", fastrand::u64(..)));
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(failed("write", &beside))?;
    Ok(beside)
}

/// Reads `roots/*.crt` and `roots/*.pem`, in order of name; no directory is no roots.
fn read_roots(dir: &Path) -> Result<String, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        entries => entries.map_err(failed("read", dir))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed("read", dir))?.path());
    }
    paths.retain(|path| {
        path.extension()
            .is_some_and(|kind| kind == "crt" || kind == "pem")
    });
    paths.sort();
    let texts: Result<Vec<_>, _> = paths.iter().map(|path| read_root(path)).collect();
    Ok(texts?.join("\n"))
}

/// Reads a file that must hold a root: an empty or broken one would take trust away without a word.
fn read_root(path: &Path) -> Result<String, StoreError> {
    let text = read(path)?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    Bundle::from_pem(&text)
        .map_err(invalid)
        .map_err(failed("use", path))?;
    Ok(text)
}

fn read(path: &Path) -> Result<String, StoreError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn make_private_dir(dir: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(failed("create", dir))?;
    make_private(dir, 0o700)
}

/// Takes the rights of group and others away, if there are any.
fn make_private(path: &Path, mode: u32) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(failed("read", path))?;
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    warn!(path = %path.display(), "others could read this, now only its owner can");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("protect", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn load(store: &Store) -> Result<Issuer, StoreError> {
        store.issuer(&store.read(&domain())?, &domain())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_restart_keeps_the_root_and_its_key_is_only_ours() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ca");
        let store = Store::Own(home.clone());
        let first = load(&store).unwrap();
        assert_eq!(load(&store).unwrap().bundle(), first.bundle());
        publish(&home, &first).unwrap();
        assert_eq!(mode(&home), 0o700);
        assert_eq!(mode(&home.join("issuer.pem")), 0o600);
        assert_eq!(mode(&home.join("ca.crt")), 0o644);
        assert_eq!(
            fs::read_dir(&home).unwrap().count(),
            2,
            "nothing else is left behind"
        );
    }

    #[test]
    fn replicas_that_begin_at_once_agree_on_one_root() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Own(dir.path().to_owned());
        let bundles: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load(&store).unwrap().bundle().clone()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
    }

    #[test]
    fn rights_that_are_too_wide_are_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Own(dir.path().to_owned());
        load(&store).unwrap();
        let file = dir.path().join("issuer.pem");
        for (path, wide) in [(dir.path(), 0o755), (&file, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(wide)).unwrap();
        }
        load(&store).unwrap();
        assert_eq!((mode(dir.path()), mode(&file)), (0o700, 0o600));
    }

    #[test]
    fn a_broken_root_is_an_error_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Own(dir.path().to_owned());
        fs::write(dir.path().join("issuer.pem"), "half a ro").unwrap();
        assert!(load(&store).is_err());
        assert_eq!(
            fs::read_to_string(dir.path().join("issuer.pem")).unwrap(),
            "half a ro"
        );
    }

    #[test]
    fn further_roots_are_trusted_beside_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Own(dir.path().to_owned());
        let other = Issuer::generate(&domain()).unwrap();
        fs::create_dir(dir.path().join("roots")).unwrap();
        fs::write(dir.path().join("roots/next.crt"), other.bundle().to_pem()).unwrap();
        fs::write(dir.path().join("roots/readme"), "no certificate").unwrap();
        let issuer = load(&store).unwrap();
        assert_eq!(issuer.bundle().roots().len(), 2);
        assert_eq!(issuer.bundle().roots()[1], other.bundle().roots()[0]);
    }

    #[test]
    fn a_given_intermediate_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Issuer::generate(&domain()).unwrap();
        let given = root
            .intermediate(Duration::from_secs(3600), SystemTime::now())
            .unwrap();
        let chain: String = given
            .chain()
            .iter()
            .map(weft_certs::bundle::certificate_to_pem)
            .collect();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("tls.crt", &chain);
        write("tls.key", &given.signer().key().serialize_pem());
        let store = Store::Given(dir.path().to_owned());
        let missing = load(&store).err().unwrap();
        assert!(missing.to_string().contains("ca.crt"), "{missing}");
        write("ca.crt", &root.bundle().to_pem());
        assert_eq!(load(&store).unwrap().chain(), given.chain());
    }
}
