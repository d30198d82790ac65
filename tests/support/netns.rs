//! Machines of a network that exists for one test only: each a network namespace, all on one bridge.
//!
//! A namespace lives as long as the process that holds it, which ends with the test however the test ends, so nothing is
//! left behind. Addresses are the same in every network, as no network can see another.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::process::Process;
use crate::skip::{skip, test_name};
use crate::tools;

/// Runs `body` where it may make network namespaces and be several users.
///
/// As root that is here. Otherwise the test runs itself once more in a user namespace of its own, which needs the ranges of
/// `/etc/subuid` and the program `newuidmap`, as redirection tells the proxy from the app by their users. Without these it is skipped.
pub fn scenario(body: impl FnOnce()) {
    if tools::require(["ip", "nft", "nsenter", "setpriv", "unshare"]).is_none() {
        return;
    }
    if geteuid().is_root() {
        return body();
    }
    let own = || {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "--net",
            "--mount",
            "--",
        ]);
        command
    };
    if !own()
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return skip("neither root nor a user namespace with several users is to be had");
    }
    let again = own()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test_name(), "--nocapture"])
        .status();
    assert!(again.unwrap().success(), "failed in its user namespace");
}

/// As whom something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

impl User {
    /// May do everything in its namespace, and read what is installed for the user who runs the tests. Redirected like an app.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
    /// Whom the redirection leaves alone.
    pub const PROXY: Self = Self {
        uid: 1337,
        gid: 1337,
    };
    /// Anyone else: nobody, who has a name everywhere, as some programs ask for it.
    pub const APP: Self = Self {
        uid: 65534,
        gid: 65534,
    };
}

/// A bridge in a namespace of its own, and the hosts on it.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
    hosts: AtomicU8,
}

impl Network {
    /// Makes a network without hosts.
    pub fn new() -> Self {
        let switch = Namespace::new();
        switch.ip("link add bridge type bridge");
        switch.ip("link set bridge up");
        Self {
            switch,
            hosts: AtomicU8::new(0),
        }
    }

    /// Adds a host with an address of each family and a default route, so that it can dial any address.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = Namespace::new();
        let host = Host {
            v4: Ipv4Addr::new(10, 77, 0, number),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
            namespace,
        };
        self.switch.ip(&format!(
            "link add port{number} type veth peer name eth0 netns {}",
            host.namespace.holder.id()
        ));
        self.switch
            .ip(&format!("link set port{number} master bridge up"));
        host.namespace
            .ip(&format!("address add {}/16 dev eth0", host.v4));
        host.namespace
            .ip(&format!("address add {}/64 dev eth0 nodad", host.v6));
        host.namespace.ip("link set eth0 up");
        host.namespace.ip("route add default dev eth0");
        host.namespace.ip("-6 route add default dev eth0");
        let mut shell = host.namespace.command("sh");
        shell.args([
            "-c",
            "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
        ]);
        assert!(
            shell.status().unwrap().success(),
            "let anyone listen on port 80"
        );
        host
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// One host of a network.
#[derive(Debug)]
pub struct Host {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    namespace: Namespace,
}

impl Host {
    /// Returns both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Returns a command that runs `program` on this host as `user`.
    pub fn command(&self, user: User, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespace.command("setpriv");
        command
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid));
        command
            .args(["--clear-groups", "--pdeathsig=KILL", "--"])
            .arg(program.as_ref());
        command
    }

    /// Runs `program` on this host as the app's user and returns what it wrote.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Output {
        self.command(User::APP, program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `body` on this host as `user`, in a thread of its own: its sockets, and the processes it starts, are of this host.
    pub fn enter<T: Send>(&self, user: User, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join(user);
                body()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `future` on this host as root, in a thread and runtime of its own.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.enter(User::ROOT, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(future)
        })
    }

    /// Moves the calling thread to this host, for good, as `user`.
    pub fn join(&self, user: User) {
        let file = File::open(self.namespace.path()).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        if user == User::ROOT {
            return;
        }
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
    }

    /// Waits until `process` accepts connections at `address` of this host.
    pub fn until_listening(&self, process: &mut Process, address: SocketAddr) {
        let dial = || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1))
                .ok()
                .map(drop)
        };
        process.until(&format!("listening at {address}"), || {
            self.enter(User::ROOT, dial)
        });
    }
}

/// A network namespace, as long as its holder runs.
#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Self {
        // `cat` ends when its standard input does, which is when this process ends.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo there && exec cat"]);
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "there\n", "make a network namespace");
        let namespace = Self { holder };
        namespace.ip("link set lo up");
        namespace
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    fn ip(&self, arguments: &str) {
        let output = self
            .command("ip")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
