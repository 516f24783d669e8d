//! API-SSL: what a client that pins the certificate sees.

use std::sync::Arc;

use routeros_sim::Router;
use routeros_sim::sentence::{Decoder, Sentence};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn a_client_that_knows_the_certificate_talks_tls_1_2() {
    let router = Router::builder().tls(true).identity("edge-1").start().await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(router.certificate().unwrap())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(router.address()).await.unwrap();
    let name = ServerName::try_from("edge-1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));

    let mut bytes = Vec::new();
    Sentence::new(["/login", "=name=atalaya", "=password=secret"]).encode(&mut bytes);
    Sentence::new(["/quit"]).encode(&mut bytes);
    stream.write_all(&bytes).await.unwrap();
    let mut decoder = Decoder::default();
    stream.read_to_end(decoder.buffer()).await.unwrap();
    assert_eq!(decoder.take_sentence(), Ok(Some(Sentence::new(["!done"]))));
    assert_eq!(decoder.take_sentence(), Ok(Some(Sentence::new(["!fatal", "session terminated on request"]))));
}

#[tokio::test]
async fn a_plain_client_at_a_tls_port_is_turned_away() {
    let router = Router::builder().tls(true).start().await.unwrap();
    let mut stream = TcpStream::connect(router.address()).await.unwrap();
    stream.write_all(b"\x06/login\x00").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(router.counts().commands, 0);
}
