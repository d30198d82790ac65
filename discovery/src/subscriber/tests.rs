use super::*;

fn entry(name: &str, body: &str, only_for: Option<&str>) -> Entry {
    Entry {
        only_for: only_for.map(Arc::from),
        ..Entry::new(name.into(), body.as_bytes().to_vec())
    }
}

fn told(kind: Kind, name: &str, caller: (&str, &str), board: &Board) -> Vec<String> {
    let caller = Caller {
        namespace: caller.0.into(),
        account: caller.1.into(),
    };
    let mut subscriber = Subscriber::new(caller, board);
    let request = DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    subscriber.request(&request).unwrap();
    let responses = subscriber.responses(board);
    let resources = responses
        .into_iter()
        .flat_map(|response| response.resources);
    resources
        .map(|one| String::from_utf8(one.resource.unwrap().value.to_vec()).unwrap())
        .collect()
}

#[test]
fn what_is_for_one_is_told_to_no_other() {
    let mut board = Board::default();
    board.put(
        Kind::InboundPolicy,
        entry("pod", "own", Some("ns/shop/sa/orders")),
    );
    let rows = [
        (("shop", "orders"), 1),
        (("shop", "web"), 0),
        (("bank", "orders"), 0),
    ];
    for (caller, count) in rows {
        assert_eq!(
            told(Kind::InboundPolicy, "pod", caller, &board).len(),
            count,
            "{caller:?}"
        );
    }
}

#[test]
fn routes_of_a_namespace_are_for_its_callers_alone() {
    let mut board = Board::default();
    board.put(Kind::RoutePolicy, entry("shop/orders", "common", None));
    let own = Entry {
        name: "shop/orders".into(),
        ..entry(&variant("shop/orders", "web"), "own", None)
    };
    board.put(Kind::RoutePolicy, own);
    assert_eq!(
        told(Kind::RoutePolicy, "shop/orders", ("web", "a"), &board),
        ["own"]
    );
    assert_eq!(
        told(Kind::RoutePolicy, "shop/orders", ("shop", "a"), &board),
        ["common"]
    );
}

#[test]
fn a_name_that_is_asked_for_again_is_told_again() {
    let mut board = Board::default();
    board.put(Kind::Address, entry("a", "x", None));
    let caller = Caller {
        namespace: "n".into(),
        account: "a".into(),
    };
    let mut subscriber = Subscriber::new(caller, &board);
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Address.url().to_owned(),
        resource_names_subscribe: vec!["a".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    for round in 0..3 {
        subscriber.request(&request).unwrap();
        assert_eq!(subscriber.responses(&board).len(), 1, "round {round}");
        assert!(subscriber.responses(&board).is_empty());
    }
}
