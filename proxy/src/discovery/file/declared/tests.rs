//! What is read from a services file, and what is said of mistakes in it.

use super::*;

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = parse(text, "default").expect_err("the text has a mistake");
    mistakes.iter().map(Mistake::to_string).collect()
}

#[test]
fn a_whole_service_is_read() {
    let text = "
services:
- name: Orders.shop
  port: 80
  protocol: grpc
  addresses: [10.96.0.1, 'fd00::1']
  endpoints:
  - address: 10.0.0.1:8080
    inbound: 10.0.0.1:15006
    identity: spiffe://cluster.local/ns/shop/sa/orders
    weight: 3
  - address: '[fd00::2]:8080'
- {name: users, port: 9090}
";
    let services = parse(text, "default").unwrap();
    let [orders, users] = services.as_slice() else {
        panic!("two services")
    };
    assert_eq!(&*orders.name.host, "orders.shop.svc.cluster.local");
    assert_eq!(
        (orders.name.port, orders.protocol),
        (80, Some(AppProtocol::Grpc))
    );
    assert_eq!(
        orders.addresses,
        [
            "10.96.0.1".parse::<IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
    let [first, second] = orders.endpoints.as_slice() else {
        panic!("two endpoints")
    };
    assert_eq!(first.inbound, Some("10.0.0.1:15006".parse().unwrap()));
    assert_eq!(
        first.identity.as_ref().unwrap().as_str(),
        "spiffe://cluster.local/ns/shop/sa/orders"
    );
    assert_eq!((first.weight, second.weight), (3, 1));
    assert_eq!(second.address, "[fd00::2]:8080".parse().unwrap());
    assert!(second.identity.is_none() && second.inbound.is_none());
    assert_eq!(
        (
            &*users.name.namespace,
            users.protocol,
            users.endpoints.len()
        ),
        ("default", None, 0)
    );
}

#[test]
fn no_services_must_be_said() {
    assert!(parse("services: []", "default").unwrap().is_empty());
    for text in ["", "{}", "# nothing\n"] {
        assert!(parse(text, "default").is_err(), "{text:?}");
    }
}

#[test]
fn every_wrong_value_is_told_with_line_value_and_reason() {
    let text = "
services:
- name: or ders
  port: 0
  protocol: htp
  addresses: [10.96.0]
  endpoints:
  - address: localhost:80
    inbound: 10.0.0.1:0
    identity: https://cluster.local/ns/shop/sa/orders
    weight: -1
";
    let got = mistakes(text);
    let want = [
        "line 4: port \"0\": it is no port from 1 to 65535",
        "line 3: name \"or ders\": ' ' is not allowed, only letters, digits, '-', '_' and '.'",
        "line 5: protocol \"htp\": it is none of http, http2, grpc, tcp, tls",
        "line 6: addresses \"10.96.0\": invalid IP address syntax",
        "line 8: address \"localhost:80\": it is not of the form 10.0.0.1:8080 or [fd00::1]:8080",
        "line 9: inbound \"10.0.0.1:0\": port 0 cannot be dialled",
        "line 10: identity \"https://cluster.local/ns/shop/sa/orders\": ",
        "line 11: weight \"-1\": it is no whole number from 0 to 1000000",
    ];
    assert_eq!(got.len(), want.len(), "{got:#?}");
    for (got, want) in got.iter().zip(want) {
        assert!(got.starts_with(want), "{got}\nwant {want}");
    }
}

#[test]
fn each_mistake_is_refused() {
    let rows = [
        (
            "port out of range",
            "services: [{name: a, port: 65536}]",
            "65536",
        ),
        (
            "port with a sign",
            "services: [{name: a, port: http}]",
            "port \"http\"",
        ),
        (
            "no address to dial",
            "services: [{name: a, port: 1, endpoints: [{address: 0.0.0.0:1}]}]",
            "no host's address",
        ),
        (
            "inbound alone",
            "services: [{name: a, port: 1, endpoints: [{address: 10.0.0.1:1, inbound: 10.0.0.1:2}]}]",
            "needs an identity",
        ),
        (
            "weight",
            "services: [{name: a, port: 1, endpoints: [{address: 10.0.0.1:1, weight: 1000001}]}]",
            "1000001",
        ),
        (
            "service twice",
            "services:\n- {name: a, port: 1}\n- {name: a.default.svc, port: 1}",
            "line 3: name \"a.default.svc\": it is on line 2 already",
        ),
        (
            "address twice",
            "services:\n- {name: a, port: 1, addresses: [10.0.0.9]}\n- {name: b, port: 1, addresses: [10.0.0.9]}",
            "on line 2 already",
        ),
        (
            "endpoint twice",
            "services: [{name: a, port: 1, endpoints: [{address: 10.0.0.1:1}, {address: 10.0.0.1:1}]}]",
            "on line 1 already",
        ),
        (
            "unknown field",
            "services:\n- name: a\n  prot: 80\n",
            "line 3: ",
        ),
        (
            "unknown endpoint field",
            "services: [{name: a, port: 1, endpoints: [{address: 10.0.0.1:1, wieght: 2}]}]",
            "wieght",
        ),
        (
            "repeated field",
            "services:\n- name: a\n  name: b\n  port: 80\n",
            "line 3: ",
        ),
        ("missing field", "services: [{name: a}]", "port"),
        ("broken YAML", "services:\n- {name: a\n", "line "),
        ("no list", "services: a", "line 1: "),
        (
            "two documents",
            "services: []\n---\nservices: []\n",
            "line ",
        ),
        ("unknown alias", "services: *a", "line 1: "),
    ];
    for (name, text, want) in rows {
        let got = mistakes(text);
        assert!(got.len() == 1 && got[0].contains(want), "{name}: {got:?}");
        assert!(
            !got[0].contains('\n'),
            "{name} is told in one line: {got:?}"
        );
    }
}

#[test]
fn equal_names_on_other_ports_and_shared_endpoints_are_fine() {
    let text = "
services:
- {name: a, port: 1, addresses: [10.0.0.9], endpoints: [{address: 10.0.0.1:1}]}
- {name: a, port: 2, addresses: [10.0.0.9], endpoints: [{address: 10.0.0.1:1}]}
- {name: a.shop, port: 1}
";
    assert_eq!(parse(text, "default").unwrap().len(), 3);
}

#[test]
fn anchors_save_repetition_but_cannot_be_a_bomb() {
    let text = "
services:
- {name: a, port: 1, endpoints: &all [{address: 10.0.0.1:1}, {address: 10.0.0.2:1}]}
- {name: b, port: 1, endpoints: *all}
";
    assert_eq!(parse(text, "default").unwrap()[1].endpoints.len(), 2);

    let mut bomb = String::from("a: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let of = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("b{n}: &a{n} [{of}]\n"));
    }
    for text in [
        bomb + "services: *a11\n",
        "services: ".to_owned() + &"[".repeat(10_000),
    ] {
        assert!(parse(&text, "default").is_err());
    }
}

#[test]
fn a_file_of_ten_thousand_endpoints_is_read() {
    let mut text = String::from("services:\n");
    for n in 0..1_000 {
        text.push_str(&format!("- name: s{n}\n  port: 80\n  endpoints:\n"));
        for k in 1..=10 {
            text.push_str(&format!(
                "  - {{address: 10.{}.{}.{k}:80, identity: spiffe://cluster.local/ns/shop/sa/s{n}}}\n",
                n / 250,
                n % 250
            ));
        }
    }
    assert_eq!(parse(&text, "default").unwrap().len(), 1_000);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z0-9:\\[\\]{}&*,'\"#|> \\n-]{0,200}") {
        let _outcome = parse(&format!("services:\n{text}"), "default");
    }
}
