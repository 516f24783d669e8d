//! Boards that someone measured: what they tell of themselves, and how long they take.

mod client;

use std::time::{Duration, Instant};

use client::{V4, start};
use routeros_sim::{Costs, Family, Fault, Model, Router};

#[tokio::test]
async fn a_board_tells_its_name_and_what_its_sessions_take_of_its_memory() {
    let (router, mut client) = start(Router::builder().model(Model::Hex)).await;
    let resource = ["/system/resource/print", "=.proplist=board-name,architecture-name,total-memory"];
    let told = client.ask(&resource).await;
    assert_eq!(told[0], "!re =total-memory=268435456 =architecture-name=mmips =board-name=hEX");
    let free = ["/system/resource/print", "=.proplist=free-memory"];
    let before = client.ask(&free).await;
    let second = client::Client::login(router.address()).await;
    assert_ne!(client.ask(&free).await, before);
    drop(second);
}

#[tokio::test]
async fn a_print_sends_nothing_before_its_scan_and_its_rows_as_they_are_made() {
    let (router, mut client) = start(Router::builder()).await;
    for number in 0..400 {
        router.insert_foreign(
            Family::V4,
            "geoblock",
            &format!("11.0.{}.{}", number / 200, number % 200),
            "",
            None,
        );
    }
    let millisecond = Duration::from_millis(1);
    router.set_costs(Costs {
        scan_per_entry: millisecond,
        print_per_property: millisecond,
        ..Costs::default()
    });
    let began = Instant::now();
    client.send_all(&[&["/ip/firewall/address-list/print", "=.proplist=list"]]).await;
    assert!(client.next().await.unwrap().starts_with("!re"));
    let first = began.elapsed();
    while client.next().await.unwrap() != "!done" {}
    let last = began.elapsed();
    assert!(first >= Duration::from_millis(400), "{first:?}");
    assert!(
        last >= Duration::from_millis(800) && last > first + Duration::from_millis(200),
        "{first:?} {last:?}"
    );
}

#[tokio::test]
async fn rows_without_end_go_on_until_the_client_leaves_and_other_commands_are_answered_between() {
    let (router, mut client) = start(Router::builder()).await;
    router.inject(Fault::EndlessRows, "/ip/firewall/address-list/print", 0);
    client.send_all(&[&["/ip/firewall/address-list/print", ".tag=1"]]).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20_000 {
        let row = client.next().await.unwrap();
        assert!(row.starts_with("!re .tag=1 "), "{row}");
        assert!(seen.insert(row));
    }
    client.send_all(&[&["/system/identity/print", ".tag=2"]]).await;
    while client.next().await.unwrap() != "!done .tag=2" {}
    drop(client);
    let mut client = client::Client::login(router.address()).await;
    assert_eq!(client.print(V4, &["=count-only="]).await, ["!done =ret=0"]);
}
