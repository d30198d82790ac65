//! Gives loopback the address `::6`, from which the inbound proxy dials its app over IPv6.
//!
//! All of 127.0.0.0/8 is local, so 127.0.0.6 needs no such step. One rtnetlink message (RFC 3549 section 3.1.2) saves having the
//! program `ip` in the image.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

/// Adds `::6/128` to loopback; is no error when it is there, or when this namespace has no IPv6.
pub(super) fn add_inbound_source() -> anyhow::Result<()> {
    settle(change(
        RTM_NEWADDR,
        NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
    ))
}

/// Removes `::6/128` from loopback; is no error when it is not there.
pub(super) fn remove_inbound_source() -> anyhow::Result<()> {
    settle(change(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK))
}

/// Forgives what says that there is nothing left to do. `EACCES` is the kernel's word for IPv6 disabled on the interface.
fn settle(result: io::Result<()>) -> anyhow::Result<()> {
    const FINE: [i32; 5] = [EEXIST, EADDRNOTAVAIL, EAFNOSUPPORT, EOPNOTSUPP, EACCES];
    match result {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| FINE.contains(&code)) =>
        {
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(EPERM) => {
            Err(super::nft::NftError::NotPermitted.into())
        }
        other => Ok(other?),
    }
}

fn change(kind: u16, flags: u16) -> io::Result<()> {
    // Netlink protocol 0, the default, is NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&socket, &message(kind, flags), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (read, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    acknowledged(answer.get(..read).unwrap_or_default())
}

/// The request: `nlmsghdr`, `ifaddrmsg`, and the address as its one attribute.
fn message(kind: u16, flags: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(MESSAGE_LENGTH));
    bytes.extend(u32::from(MESSAGE_LENGTH).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port: one request, one answer
    bytes.extend([AF_INET6, 128, IFA_F_NODAD, 0]);
    bytes.extend(LOOPBACK_INDEX.to_ne_bytes());
    bytes.extend(ATTRIBUTE_LENGTH.to_ne_bytes());
    bytes.extend(IFA_LOCAL.to_ne_bytes());
    bytes.extend(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).octets());
    bytes
}

/// Reads the kernel's answer: `nlmsghdr` of type `NLMSG_ERROR`, then 0 or a negative error number.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let code = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

const MESSAGE_LENGTH: u16 = 16 + 8 + ATTRIBUTE_LENGTH;
const ATTRIBUTE_LENGTH: u16 = 4 + 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const AF_INET6: u8 = 10;
const IFA_F_NODAD: u8 = 0x02;
const IFA_LOCAL: u16 = 2;
/// Loopback is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

#[cfg(test)]
mod tests {
    use std::io;

    use super::{EACCES, EPERM, MESSAGE_LENGTH, acknowledged, message, settle};

    #[test]
    fn request_is_as_long_as_it_says() {
        assert_eq!(message(20, 5).len(), usize::from(MESSAGE_LENGTH));
    }

    #[test]
    fn kernel_answer_becomes_a_result() {
        let answer = |code: i32| [&[0_u8; 16][..], &code.to_ne_bytes()].concat();
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(
            acknowledged(&answer(-1)).unwrap_err().raw_os_error(),
            Some(1)
        );
        assert!(acknowledged(&[0; 7]).is_err());
    }

    #[test]
    fn namespace_without_ipv6_is_no_error_but_a_missing_right_is() {
        assert!(settle(Err(io::Error::from_raw_os_error(EACCES))).is_ok());
        let error = settle(Err(io::Error::from_raw_os_error(EPERM))).unwrap_err();
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
    }
}
