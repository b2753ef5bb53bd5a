use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tonic::{Request, Response, Status};

use super::*;
use crate::channel::{self, ChannelOptions};
use crate::client::{Client, ClientError, ClientOptions, Effect, Retry};
use crate::proto::quorate::oracle::oracle_client::OracleClient;
use crate::proto::quorate::oracle::oracle_server::{Oracle, OracleServer};
use crate::proto::quorate::oracle::{
    AllocIdRequest, AllocIdResponse, AllocTimestampRequest, AllocTimestampResponse,
};

/// An authority with its certificates in a folder.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The files of a party with these names in its certificate; without any it is a client.
    fn files(&self, name: &str, names: &[&str]) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !names.is_empty() {
            let usage = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(usage);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{name}-{kind}.pem"));
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsFiles {
            cert: Some(path("cert")),
            key: Some(path("key")),
            ca: Some(self.ca()),
        }
    }
}

/// Answers only to peers, as the port of replicas does.
struct ForPeers;

#[tonic::async_trait]
impl Oracle for ForPeers {
    async fn alloc_id(
        &self,
        request: Request<AllocIdRequest>,
    ) -> Result<Response<AllocIdResponse>, Status> {
        let caller = request.extensions().get::<Caller>().unwrap();
        if let Some(refusal) = caller.refusal() {
            return Err(Status::permission_denied(refusal));
        }
        let count = request.into_inner().count;
        Ok(Response::new(AllocIdResponse { first: 1, count }))
    }

    async fn alloc_timestamp(
        &self,
        _: Request<AllocTimestampRequest>,
    ) -> Result<Response<AllocTimestampResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A server on loopback; ends with the test.
async fn serve(tls: Option<ServerTls>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = channel::server(&ChannelOptions::default())
        .add_service(OracleServer::new(ForPeers))
        .serve_with_incoming(incoming(listener, tls, "test"));
    tokio::spawn(server);
    address
}

/// As the calls between replicas are made.
async fn call(address: &str, tls: Option<ClientTls>) -> Result<u32, String> {
    let options = ChannelOptions {
        tls,
        ..ChannelOptions::default()
    };
    let channel = channel::connect(address, &options)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = OracleClient::new(channel);
    let asking = client.alloc_id(AllocIdRequest { count: 3 });
    match tokio::time::timeout(Duration::from_secs(20), asking).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().count),
        Ok(Err(status)) => Err(match explain_status(&status) {
            Some(meaning) => meaning,
            None => status.message().to_owned(),
        }),
        Err(_) => Err("hangs".to_owned()),
    }
}

/// As the calls of clients are made.
async fn ask(address: &str, tls: ClientTls) -> Result<u32, ClientError> {
    let options = ClientOptions {
        deadline: Duration::from_millis(500),
        channel: ChannelOptions {
            tls: Some(tls),
            ..ChannelOptions::default()
        },
        ..ClientOptions::default()
    };
    let client = Client::new([address.to_owned()], options).unwrap();
    let answer = client
        .call(Retry::IfNotApplied, |leader| async move {
            OracleClient::new(leader)
                .alloc_id(AllocIdRequest { count: 3 })
                .await
        })
        .await?;
    Ok(answer.count)
}

/// Refused for sure before anything was sent, with these words.
async fn is_refused(address: &str, tls: ClientTls, words: &str) {
    let error = ask(address, tls).await.unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

fn peer_side(files: &TlsFiles) -> Option<ServerTls> {
    Some(ServerTls::for_peers(files).unwrap())
}

#[tokio::test]
async fn replicas_of_one_authority_talk_at_any_address() {
    let authority = Authority::new();
    let one = authority.files("one", &["host-1", PEER_NAME]);
    let two = authority.files("two", &["host-2", PEER_NAME]);
    let address = serve(peer_side(&one)).await;
    let count = call(&address, Some(ClientTls::for_peers(&two).unwrap())).await;
    assert_eq!(count, Ok(3));
}

#[tokio::test]
async fn a_clients_certificate_is_no_peers_and_is_told_so() {
    let authority = Authority::new();
    let one = authority.files("one", &["host-1", PEER_NAME]);
    let client = authority.files("client-7", &[]);
    let address = serve(peer_side(&one)).await;
    let error = call(&address, Some(ClientTls::for_peers(&client).unwrap()))
        .await
        .unwrap_err();
    assert!(
        error.contains("client-7") && error.contains("is not a replica's"),
        "{error}"
    );
    // Nor can it pretend to be a server.
    assert!(matches!(
        ServerTls::for_peers(&client),
        Err(TlsError::NotAPeer(_))
    ));
}

#[tokio::test]
async fn another_authority_is_refused_by_both_sides() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let one = authority.files("one", &["host-1", PEER_NAME]);
    let other = stranger.files("other", &["host-2", PEER_NAME]);
    let address = serve(peer_side(&one)).await;
    // The caller does not believe the server.
    let error = call(&address, Some(ClientTls::for_peers(&other).unwrap()))
        .await
        .unwrap_err();
    assert!(error.contains("an authority we do not know"), "{error}");
    // The server does not believe the caller.
    let mixed = TlsFiles {
        ca: one.ca.clone(),
        ..other
    };
    // By luck the caller hears of it within a call between replicas; a client does always.
    assert!(
        call(&address, Some(ClientTls::for_peers(&mixed).unwrap()))
            .await
            .is_err()
    );
    let listening = authority.files("two", &["127.0.0.1", PEER_NAME]);
    let address = serve(Some(ServerTls::for_clients(&listening).unwrap())).await;
    is_refused(
        &address,
        ClientTls::from_files(&mixed).unwrap(),
        "it refused our certificate",
    )
    .await;
}

#[tokio::test]
async fn a_client_of_the_authority_is_let_in() {
    let authority = Authority::new();
    let one = authority.files("one", &["127.0.0.1", PEER_NAME]);
    let client = authority.files("client-7", &[]);
    let address = serve(Some(ServerTls::for_clients(&one).unwrap())).await;
    // This service answers replicas only, and says so to whom the handshake lets in.
    let error = ask(&address, ClientTls::from_files(&client).unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(tonic::Code::PermissionDenied));
    let count = ask(&address, ClientTls::from_files(&one).unwrap()).await;
    assert_eq!(count.unwrap(), 3);
}

#[tokio::test]
async fn no_certificate_where_one_is_wanted_is_refused() {
    let authority = Authority::new();
    let one = authority.files("one", &["localhost", "127.0.0.1", PEER_NAME]);
    let address = serve(peer_side(&one)).await;
    let ca = authority.ca();
    let tls = ClientTls::new(&[ca.as_path()], &TlsFiles::default()).unwrap();
    is_refused(&address, tls, "none was shown").await;
}

#[tokio::test]
async fn clients_check_the_name_they_connected_to() {
    let authority = Authority::new();
    let elsewhere = authority.files("one", &["host-1", PEER_NAME]);
    let files = TlsFiles {
        ca: None,
        ..elsewhere
    };
    let address = serve(Some(ServerTls::for_clients(&files).unwrap())).await;
    let ca = authority.ca();
    let tls = ClientTls::new(&[ca.as_path()], &TlsFiles::default()).unwrap();
    is_refused(&address, tls, "for other names").await;
}

#[tokio::test]
async fn a_server_without_tls_is_named_as_such() {
    let authority = Authority::new();
    let address = serve(None).await;
    let ca = authority.ca();
    let tls = ClientTls::new(&[ca.as_path()], &TlsFiles::default()).unwrap();
    is_refused(&address, tls, "does not speak TLS").await;
}

#[test]
fn files_that_do_not_fit_are_named() {
    let authority = Authority::new();
    let one = authority.files("one", &[PEER_NAME]);
    let two = authority.files("two", &[PEER_NAME]);
    let crossed = TlsFiles {
        key: two.key.clone(),
        ..one.clone()
    };
    let error = ServerTls::for_peers(&crossed).unwrap_err().to_string();
    assert!(error.contains("one-cert.pem"), "{error}");
    assert!(ClientTls::for_peers(&crossed).is_err());
    let missing = TlsFiles {
        cert: Some(Path::new("/nowhere/cert.pem").to_owned()),
        ..one.clone()
    };
    let error = ServerTls::for_peers(&missing).unwrap_err().to_string();
    assert!(error.contains("/nowhere/cert.pem"), "{error}");
    let half = TlsFiles { key: None, ..one };
    assert!(matches!(half.pair(), Err(TlsError::Incomplete(_))));
}

#[test]
fn what_the_other_side_says_of_certificates_is_its_answer() {
    let answer = Status::failed_precondition("invalid peer certificate: UnknownIssuer");
    assert_eq!(explain_status(&answer), None);
}

#[test]
fn the_debug_form_shows_no_key() {
    let authority = Authority::new();
    let files = authority.files("one", &[PEER_NAME]);
    let tls = ClientTls::for_peers(&files).unwrap();
    assert!(!format!("{tls:?}").contains("PRIVATE"));
}
