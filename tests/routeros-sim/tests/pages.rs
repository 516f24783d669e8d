//! The pages beside the address lists, and the terminal that changes what they show.

mod client;

use client::{Client, start};
use routeros_sim::{ApiSsl, Family, Router};
use rstest::rstest;

const RULE: &str = "chain=prerouting action=drop src-address-list=spammer";

#[tokio::test]
async fn a_rule_typed_at_the_terminal_is_printed_as_routeros_prints_it() {
    let (router, mut client) = start(Router::builder()).await;
    router.terminal(&format!("/ip/firewall/raw add {RULE} in-interface-list=WAN comment=\"a b\"")).unwrap();
    router.terminal(&format!("/ipv6 firewall raw add {RULE} disabled=yes")).unwrap();
    router.terminal("/ip/firewall/filter add chain=input action=accept").unwrap();
    assert_eq!(
        client.ask(&["/ip/firewall/raw/print", ".tag=1"]).await,
        [
            "!re .tag=1 =.id=*1 =chain=prerouting =action=drop =src-address-list=spammer =in-interface-list=WAN =log=false =log-prefix= =bytes=0 =packets=0 =invalid=false =dynamic=false =disabled=false =comment=a b",
            "!done .tag=1"
        ]
    );
    let only = ["/ipv6/firewall/raw/print", "=.proplist=chain,disabled"];
    assert_eq!(client.ask(&only).await, ["!re =chain=prerouting =disabled=true", "!done"]);
    assert_eq!(client.ask(&["/ipv6/firewall/filter/print"]).await, ["!empty", "!done"]);
    let counted = ["/ip/firewall/filter/print", "=count-only=", "?action=accept"];
    assert_eq!(client.ask(&counted).await, ["!done =ret=1"]);
}

#[rstest]
#[case("7.24", 0, "=date=2099-11-25 =time-zone-autodetect=true =time-zone-name=Z =gmt-offset=+00:00")]
#[case("7.10", 330, "=date=2099-11-25 =time-zone-autodetect=true =time-zone-name=Z =gmt-offset=+05:30")]
#[case("7.9.2", -210, "=date=nov/25/2099 =time-zone-autodetect=true =time-zone-name=Z =gmt-offset=-03:30")]
#[case("6.49.10", 60, "=date=nov/25/2099 =time-zone-autodetect=true =time-zone-name=Z =gmt-offset=+01:00")]
#[tokio::test]
async fn the_clock_is_written_as_its_version_writes_it(
    #[case] version: &str,
    #[case] minutes: i32,
    #[case] shown: &str,
) {
    let (router, mut client) = start(Router::builder().version(version).time_zone("Z", minutes)).await;
    let noon: jiff::Timestamp = "2099-11-25T12:00:00Z".parse().unwrap();
    // The clock goes forward only, so the day is far away.
    let ahead = noon.duration_since(router.clock().now()).try_into().unwrap();
    router.clock().advance(ahead);
    let answer = client.ask(&["/system/clock/print"]).await;
    assert!(answer[0].contains(shown), "{answer:?}");
    let hour = (720 + minutes) / 60;
    assert!(answer[0].starts_with(&format!("!re =time={hour:02}:")), "{answer:?}");
}

#[tokio::test]
async fn users_groups_services_and_certificates_answer_queries_by_name() {
    let (router, mut client) = start(Router::builder().policies(&["read", "write", "api"])).await;
    assert_eq!(
        client.ask(&["/user/print", "?name=atalaya", "=.proplist=.id,name,group,address"]).await,
        ["!re =.id=*1 =name=atalaya =group=atalaya =address=", "!done"]
    );
    let group = client.ask(&["/user/group/print", "?name=atalaya"]).await;
    assert!(group[0].contains("=policy=read,write,api,!local,!telnet,"), "{group:?}");
    let port = router.address().port();
    let service = client.ask(&["/ip/service/print", "?name=api", "=.proplist=port,disabled"]).await;
    assert_eq!(service, [format!("!re =port={port} =disabled=false"), "!done".to_owned()]);
    let names = ["/ip/service/print", "?name=api-ssl", "=.proplist=certificate,disabled"];
    assert_eq!(client.ask(&names).await, ["!re =certificate=none =disabled=true", "!done"]);
    assert_eq!(client.ask(&["/certificate/print"]).await, ["!empty", "!done"]);
    let resource = client.ask(&["/system/resource/print"]).await;
    assert!(resource[0].contains("=total-memory=1073741824 =cpu=ARM64 "), "{resource:?}");
}

#[rstest]
#[case("7.24", "available-from", "address")]
#[case("7.24.1", "available-from", "address")]
#[case("7.23.2", "address", "available-from")]
#[case("6.49.10", "address", "available-from")]
#[tokio::test]
async fn whom_a_service_lets_in_has_another_name_from_7_24_on(
    #[case] version: &str,
    #[case] name: &str,
    #[case] other: &str,
) {
    let (router, mut client) = start(Router::builder().version(version)).await;
    router.terminal(&format!("/ip/service set api {name}=192.0.2.0/24")).unwrap();
    let refused = router.terminal(&format!("/ip/service set api {other}=192.0.2.0/24")).unwrap_err();
    assert_eq!(refused.to_string(), format!("expected end of command at {other:?}"));
    let row = client.ask(&["/ip/service/print", "?name=api"]).await;
    assert!(row[0].contains(&format!(" ={name}=192.0.2.0/24 ")), "{row:?}");
    assert!(!row[0].contains(&format!(" ={other}=")), "{row:?}");
}

#[tokio::test]
async fn the_commands_for_api_ssl_open_it_with_the_certificate_that_the_page_shows() {
    use rustls::pki_types::ServerName;
    let (router, mut client) = start(Router::builder().identity("edge-1")).await;
    let connect = || async {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(router.certificate().unwrap_or_default().into()).ok();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(router.api_ssl_address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        connector.connect(ServerName::try_from("edge-1").unwrap(), stream).await.map(drop)
    };
    assert!(connect().await.is_err(), "disabled");
    router.terminal("/ip/service set api-ssl disabled=no").unwrap();
    assert!(connect().await.is_err(), "without a certificate");
    router.terminal("/certificate add name=api common-name=edge-1 key-usage=tls-server").unwrap();
    router.terminal("/certificate sign api").unwrap();
    router.terminal("/ip/service set api-ssl certificate=api").unwrap();
    connect().await.unwrap();
    let page = client.ask(&["/certificate/print", "=.proplist=name,fingerprint"]).await;
    assert!(page[0].starts_with("!re =name=api =fingerprint=") && page[0].len() == 27 + 64, "{page:?}");
    router.terminal("/ip/service set api disabled=yes").unwrap();
    assert!(Client::connect(router.address()).await.is_closed().await);
}

#[tokio::test]
async fn a_user_typed_at_the_terminal_may_do_what_its_group_grants() {
    let router = Router::builder().start().await.unwrap();
    router.terminal("/user group add name=ro policy=read,api").unwrap();
    router.terminal("/user add name=eve group=ro password=\"a \\\"b\"").unwrap();
    let mut client = Client::connect(router.address()).await;
    assert_eq!(client.ask(&["/login", "=name=eve", "=password=a \"b"]).await, ["!done"]);
    let add = client.add(client::V4, "192.0.2.1", &[]).await;
    assert_eq!(add, ["!trap =message=not enough permissions (9)", "!done"]);
    router.terminal("/user set eve disabled=yes").unwrap();
    let mut again = Client::connect(router.address()).await;
    let refused = again.ask(&["/login", "=name=eve", "=password=a \"b"]).await;
    assert_eq!(refused[0], "!trap =message=invalid user name or password (6)");
}

#[tokio::test]
async fn a_page_may_be_refused_and_ipv6_may_be_missing() {
    let (router, mut client) = start(Router::builder().refuse("/user").ipv6(false)).await;
    let refused = ["!trap =message=not enough permissions (9)", "!done"];
    assert_eq!(client.ask(&["/user/print"]).await, refused);
    assert_eq!(client.ask(&["/user/group/print"]).await, refused);
    let missing = ["!trap =category=0 =message=no such command prefix", "!done"];
    assert_eq!(client.ask(&["/ipv6/firewall/raw/print"]).await, missing);
    assert_eq!(client.print(client::V6, &[]).await, missing);
    assert_eq!(client.add(client::V6, "2001:db8::1", &[]).await, missing);
    assert_eq!(router.entry_count(Family::V6), 0);
}

#[tokio::test]
async fn a_router_on_the_plain_api_opens_api_ssl_beside_it() {
    let router = Router::builder().api_ssl(ApiSsl::WithCertificate).start().await.unwrap();
    assert_ne!(router.address(), router.api_ssl_address());
    assert!(router.certificate().is_some());
    router.go_down().await;
    assert!(tokio::net::TcpStream::connect(router.api_ssl_address()).await.is_err());
    router.come_up().await.unwrap();
    tokio::net::TcpStream::connect(router.api_ssl_address()).await.unwrap();
    let plain = Router::builder().start().await.unwrap();
    assert_eq!(plain.certificate(), None);
    let tls = Router::builder().tls(true).start().await.unwrap();
    assert_eq!(tls.address(), tls.api_ssl_address());
}
