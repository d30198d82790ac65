//! Which connections the kernel hands to the proxy, with the real nftables table in network namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use weft_tests::netns::{Host, Network, User, scenario};

use crate::PROXY;

/// A process of the pod that runs as another user than the proxy, but in its group.
const PROXY_GROUP: User = User {
    uid: 2000,
    gid: 1337,
};

/// Starts a listener on `host` that tells every caller its `name` and the address that the caller dialed.
fn signpost(host: &Host, name: &'static str, address: SocketAddr) {
    let listener = host.enter(User::ROOT, || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let destination =
                original_destination(&stream).unwrap_or_else(|| stream.local_addr().unwrap());
            let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
            let _ = write!(stream, "{name} {destination}");
        }
    });
}

fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let mapped = stream.peer_addr().unwrap().ip().to_canonical().is_ipv4();
    let found = if mapped {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    found.ok()?.as_socket()
}

/// Dials `target` on `host` as `user`, from `source` if one is given, and returns who answered and for which address.
fn dial(host: &Host, user: User, source: Option<IpAddr>, target: SocketAddr) -> String {
    host.enter(user, || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        }
        match socket.connect_timeout(&target.into(), Duration::from_secs(2)) {
            Ok(()) => {
                let mut answer = String::new();
                let mut stream = TcpStream::from(socket);
                stream
                    .set_read_timeout(Some(Duration::from_secs(2)))
                    .unwrap();
                stream.read_to_string(&mut answer).unwrap();
                answer
            }
            Err(error) => format!("{:?}", error.kind()),
        }
    })
}

fn redirect(host: &Host, arguments: &[&str]) {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect();
    host.enter(User::ROOT, || weft_proxy::redirect::run(arguments))
        .unwrap();
}

/// A pod with both proxy ports and an app, and another host with an app.
fn pod_and_other(network: &Network) -> (Host, Host) {
    let (pod, other) = (network.host(), network.host());
    let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    signpost(&pod, "inbound", any(15006));
    signpost(
        &pod,
        "outbound",
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15001),
    );
    signpost(
        &pod,
        "outbound",
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 15001),
    );
    for port in [8080, 15020, 15021] {
        signpost(&pod, "app", any(port));
    }
    for port in [8080, 3306] {
        signpost(&other, "other", any(port));
    }
    (pod, other)
}

#[test]
fn each_connection_goes_where_its_rule_says() {
    scenario(|| {
        let network = Network::new();
        let (pod, other) = pod_and_other(&network);
        redirect(&pod, &["--skip-outbound-ports", "3306"]);
        let v4 = Family {
            pod: pod.v4.into(),
            other: other.v4.into(),
            service: Ipv4Addr::new(10, 96, 0, 10).into(),
            loopback: Ipv4Addr::LOCALHOST.into(),
            inbound_leg: Ipv4Addr::new(127, 0, 0, 6).into(),
        };
        let v6 = Family {
            pod: pod.v6.into(),
            other: other.v6.into(),
            service: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10).into(),
            loopback: Ipv6Addr::LOCALHOST.into(),
            inbound_leg: Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        };
        for family in [v4, v6] {
            family.check(&pod, &other);
        }
    });
}

/// Who dials whom, and who must answer.
const ROWS: &str = "
caller from outside                        | other | app   | -   | pod:8080      | inbound
caller of a port without a listener        | other | app   | -   | pod:9999      | inbound
scraper of the proxy's metrics             | other | app   | -   | pod:15020     | app
kubelet asking for readiness               | other | app   | -   | pod:15021     | app
app to another pod                         | pod   | app   | -   | other:8080    | outbound
app to a service's address                 | pod   | app   | -   | service:80    | outbound
root to another pod                        | pod   | root  | -   | other:8080    | outbound
app to a skipped port                      | pod   | app   | -   | other:3306    | other
app to loopback                            | pod   | app   | -   | loopback:8080 | app
app to its own pod's address               | pod   | app   | -   | pod:8080      | app
proxy to another pod                       | pod   | proxy | -   | other:8080    | other
proxy to its own pod: the app called itself| pod   | proxy | -   | pod:8080      | inbound
inbound leg to the pod's address           | pod   | proxy | leg | pod:8080      | app
inbound leg to loopback                    | pod   | proxy | leg | loopback:8080 | app
proxy to loopback                          | pod   | proxy | -   | loopback:8080 | app
proxy's group to another pod               | pod   | group | -   | other:8080    | other
proxy's group within the pod               | pod   | group | -   | pod:8080      | app
";

/// The addresses of one address family.
struct Family {
    pod: IpAddr,
    other: IpAddr,
    service: IpAddr,
    loopback: IpAddr,
    inbound_leg: IpAddr,
}

impl Family {
    fn check(&self, pod: &Host, other: &Host) {
        for row in ROWS.trim().lines() {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [name, on, user, source, target, want] = cells[..] else {
                unreachable!("{row}")
            };
            let host = if on == "pod" { pod } else { other };
            let source = (source == "leg").then_some(self.inbound_leg);
            let target = self.target(target);
            let answer = dial(host, user_named(user), source, target);
            assert_eq!(answer, format!("{want} {target}"), "{name} at {target}");
        }
    }

    fn target(&self, text: &str) -> SocketAddr {
        let (place, port) = text.split_once(':').unwrap();
        let address = match place {
            "pod" => self.pod,
            "other" => self.other,
            "service" => self.service,
            _ => self.loopback,
        };
        SocketAddr::new(address, port.parse().unwrap())
    }
}

fn user_named(name: &str) -> User {
    match name {
        "root" => User::ROOT,
        "proxy" => User::PROXY,
        "group" => PROXY_GROUP,
        _ => User::APP,
    }
}

#[test]
fn skipped_blocks_are_dialed_directly() {
    scenario(|| {
        let network = Network::new();
        let (pod, other) = pod_and_other(&network);
        redirect(&pod, &["--skip-outbound-cidrs", "10.77.0.0/16,fd77::/16"]);
        for address in other.addresses() {
            let target = SocketAddr::new(address, 8080);
            assert_eq!(
                dial(&pod, User::APP, None, target),
                format!("other {target}")
            );
        }
        let elsewhere = "10.96.0.10:80".parse().unwrap();
        assert_eq!(
            dial(&pod, User::APP, None, elsewhere),
            "outbound 10.96.0.10:80"
        );
    });
}

#[test]
fn second_run_replaces_the_table_and_removal_leaves_nothing() {
    scenario(|| {
        let network = Network::new();
        let (pod, other) = pod_and_other(&network);
        let target = SocketAddr::new(other.v4.into(), 3306);
        redirect(&pod, &["--skip-outbound-ports", "3306"]);
        redirect(&pod, &[]);
        assert_eq!(
            dial(&pod, User::APP, None, target),
            format!("outbound {target}"),
            "after a second run"
        );
        redirect(&pod, &["--remove"]);
        redirect(&pod, &["--remove"]);
        assert_eq!(
            dial(&pod, User::APP, None, target),
            format!("other {target}"),
            "after removal"
        );
        let tables = pod
            .command(User::ROOT, "nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
        let addresses = pod
            .command(User::ROOT, "ip")
            .args(["-6", "address", "show", "lo"])
            .output()
            .unwrap();
        assert!(
            !String::from_utf8_lossy(&addresses.stdout).contains("::6/128"),
            "{addresses:?}"
        );
    });
}

#[test]
fn check_tells_whether_connections_are_redirected() {
    scenario(|| {
        let network = Network::new();
        let pod = network.host();
        let check = |user| {
            pod.enter(user, || {
                weft_proxy::redirect::run(["--check".to_owned()]).map_err(|error| error.to_string())
            })
        };
        let before = check(User::PROXY).unwrap_err();
        assert!(before.contains("not redirected to port 15006"), "{before}");
        redirect(&pod, &[]);
        assert_eq!(check(User::PROXY), Ok(()), "nobody listens yet");
        signpost(
            &pod,
            "inbound",
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 15006),
        );
        assert_eq!(check(User::PROXY), Ok(()), "the proxy listens");
        let wrong_user = check(User::APP).unwrap_err();
        assert!(wrong_user.contains("as uid 1337"), "{wrong_user}");
    });
}

#[test]
fn redirection_without_the_right_to_it_says_what_to_do() {
    scenario(|| {
        let network = Network::new();
        let pod = network.host();
        let error = pod
            .enter(User::APP, || weft_proxy::redirect::run([]))
            .unwrap_err();
        assert!(format!("{error:#}").contains("NET_ADMIN"), "{error:#}");
    });
}

#[test]
fn namespace_without_ipv6_is_redirected_for_ipv4() {
    scenario(|| {
        let network = Network::new();
        let (pod, other) = pod_and_other(&network);
        let switch = "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        assert!(
            pod.command(User::ROOT, "sh")
                .args(["-c", switch])
                .status()
                .unwrap()
                .success()
        );
        redirect(&pod, &[]);
        let target = SocketAddr::new(other.v4.into(), 8080);
        assert_eq!(
            dial(&pod, User::APP, None, target),
            format!("outbound {target}")
        );
    });
}

#[test]
fn a_proxy_that_is_not_redirected_to_says_so_and_ends() {
    scenario(|| {
        let network = Network::new();
        let host = network.host();
        let start = |user| {
            let mut command = host.command(user, Path::new(PROXY));
            command
                .env_clear()
                .env("WEFT_REDIRECT", "on")
                .env("WEFT_LOG_FORMAT", "text");
            let output = command.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (
                output.status.code(),
                String::from_utf8_lossy(&said).into_owned(),
            )
        };
        let (code, said) = start(User::PROXY);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("connections of uid 1337 are not redirected to port 15006"),
            "{said}"
        );
        // With the table, another user's connections are the app's, and not led to the inbound port.
        redirect(&host, &[]);
        let (code, said) = start(User::APP);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("connections of uid 65534 are not redirected"),
            "{said}"
        );
    });
}
