//! Certificates of a cluster: its authority, one certificate a replica, one a client.
//!
//! The authority's key stays in the folder, so that certificates can be added later: its name and
//! its extensions are always the same, and what it signs fits its first certificate.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_rpc::tls::PEER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::error::CliError;

/// Years the authority's certificate is valid.
const AUTHORITY_YEARS: i32 = 30;
const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";

/// Makes certificates in a folder; never overwrites a file.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    years: i32,
}

/// Files of one party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Host or client.
    pub name: String,
    /// Its certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

fn failed(doing: &str) -> impl Fn(rcgen::Error) -> CliError {
    move |error| CliError::failed(error).context(format!("cannot {doing}"))
}

/// A new file, for everybody to read or for its owner alone.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AlreadyExists;
        let failure = CliError::failed(error).context(format!("cannot write {}", path.display()));
        if taken {
            failure.hint("nothing is ever overwritten; move the file away or choose another --out")
        } else {
            failure
        }
    })
}

/// From a day that is past on every clock to 1 January so many years from now.
fn valid_for(params: &mut CertificateParams, years: i32) {
    const YEAR_SECONDS: u64 = 31_556_952;
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let this_year = 1970 + i32::try_from(since_epoch / YEAR_SECONDS).unwrap_or(0);
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(this_year + years, 1, 1);
}

/// What the authority is called and may do; the same every time.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Quorate cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// The authority of the folder; a new one when the folder has none.
    pub fn open(folder: &Path, years: i32) -> Result<Self, CliError> {
        std::fs::create_dir_all(folder).map_err(|error| {
            CliError::failed(error).context(format!("cannot create {}", folder.display()))
        })?;
        let (cert_path, key_path) = (folder.join(CA_CERT), folder.join(CA_KEY));
        let mut params = authority_params();
        let key = match std::fs::read_to_string(&key_path) {
            Ok(pem) => {
                if !cert_path.exists() {
                    return Err(CliError::failed(anyhow::anyhow!(
                        "{} is there, but {} is not",
                        key_path.display(),
                        cert_path.display()
                    ))
                    .hint("put the authority's certificate back beside its key"));
                }
                KeyPair::from_pem(&pem)
                    .map_err(failed("use the authority's key"))
                    .map_err(|error| error.hint(format!("it is in {}", key_path.display())))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(failed("make a key"))?;
                valid_for(&mut params, AUTHORITY_YEARS);
                let cert = params
                    .self_signed(&key)
                    .map_err(failed("make the authority's certificate"))?;
                // The certificate first: without its key it is only useless.
                write_new(&cert_path, &cert.pem(), 0o644)?;
                write_new(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
            Err(error) => {
                return Err(
                    CliError::failed(error).context(format!("cannot read {}", key_path.display()))
                );
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
            years,
        })
    }

    /// The authority's certificate, which everybody needs.
    pub fn ca(&self) -> PathBuf {
        self.folder.join(CA_CERT)
    }

    /// A replica's certificate: for its host, for these further names and addresses, and for its
    /// part as a replica.
    pub fn replica(&self, host: &str, further: &[String]) -> Result<Made, CliError> {
        let mut names = vec![host.to_owned(), PEER_NAME.to_owned()];
        for name in further {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.make(host, names, usages)
    }

    /// A client's certificate. It names no host, so that it can serve nobody.
    pub fn client(&self, name: &str) -> Result<Made, CliError> {
        self.make(name, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn make(
        &self,
        name: &str,
        names: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Made, CliError> {
        let mut params = CertificateParams::new(names).map_err(|error| {
            CliError::usage(format!("{name:?} cannot be in a certificate: {error}"))
        })?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, self.years);
        let key = KeyPair::generate().map_err(failed("make a key"))?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(failed("sign a certificate"))?;
        let made = self.paths(name);
        write_new(&made.key, &key.serialize_pem(), 0o600)?;
        write_new(&made.cert, &cert.pem(), 0o644)?;
        Ok(made)
    }

    /// Where the files of a party are.
    pub fn paths(&self, name: &str) -> Made {
        // Colons of IPv6 addresses have no place in file names.
        let file = name.replace(':', "_");
        Made {
            name: name.to_owned(),
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}-key.pem")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use quorate_rpc::{ClientTls, ServerTls, TlsFiles};

    use super::*;

    fn files(authority: &Authority, made: &Made) -> TlsFiles {
        TlsFiles {
            cert: Some(made.cert.clone()),
            key: Some(made.key.clone()),
            ca: Some(authority.ca()),
        }
    }

    #[test]
    fn replicas_can_be_peers_and_clients_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), 5).unwrap();
        let replica = authority
            .replica("host-1", &["127.0.0.1".to_owned()])
            .unwrap();
        let client = authority.client("client-1").unwrap();
        assert!(ServerTls::for_peers(&files(&authority, &replica)).is_ok());
        assert!(ServerTls::for_peers(&files(&authority, &client)).is_err());
        assert!(ClientTls::from_files(&files(&authority, &client)).is_ok());
    }

    #[test]
    fn nothing_is_overwritten_and_keys_are_for_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), 5).unwrap();
        let made = authority.replica("host-1", &[]).unwrap();
        let before = std::fs::read(&made.key).unwrap();
        let error = authority.replica("host-1", &[]).unwrap_err().to_string();
        assert!(error.contains("host-1-key.pem"), "{error}");
        assert_eq!(std::fs::read(&made.key).unwrap(), before);
        for key in [made.key, dir.path().join(CA_KEY)] {
            let mode = std::fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    /// What is signed later must be believed by those who have the first certificate only.
    #[test]
    fn the_stored_key_signs_what_the_first_certificate_vouches_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), 5).unwrap();
        let ca = std::fs::read(first.ca()).unwrap();
        let one = first.replica("host-1", &[]).unwrap();
        let later = Authority::open(dir.path(), 5).unwrap();
        assert_eq!(std::fs::read(later.ca()).unwrap(), ca);
        let two = later.replica("host-2", &[]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = ServerTls::for_peers(&files(&first, &one)).unwrap();
            let connections = quorate_rpc::tls::incoming(listener, Some(server), "test");
            let options = quorate_rpc::ChannelOptions {
                tls: Some(ClientTls::for_peers(&files(&later, &two)).unwrap()),
                ..Default::default()
            };
            let serving = tokio::spawn(
                quorate_rpc::channel::server(&options)
                    .add_routes(tonic::service::Routes::default())
                    .serve_with_incoming(connections),
            );
            let connected = quorate_rpc::channel::connect(&address, &options).await;
            assert!(connected.is_ok(), "{:?}", connected.err());
            serving.abort();
        });
    }

    #[test]
    fn a_key_without_its_certificate_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), 5).unwrap();
        std::fs::remove_file(dir.path().join(CA_CERT)).unwrap();
        assert!(Authority::open(dir.path(), 5).is_err());
    }
}
