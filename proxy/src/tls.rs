//! Mesh TLS: which role when, and what the ALPN list says about the bytes inside.
//!
//! Istio's words (ARCHITECTURE.md, decision 4): a ClientHello that offers one of them is for us, any other TLS is the app's own.

pub(crate) mod accept;
pub(crate) mod connect;

/// What travels inside a mesh TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    Opaque,
}

impl Speaks {
    /// What a client offers. The first entry tells the receiving proxy, the last what an Istio server will pick.
    pub(crate) fn offer(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"istio-http/1.1", b"istio", b"http/1.1"],
            Self::Http2 => &[b"istio-h2", b"istio", b"h2"],
            Self::Opaque => &[b"istio"],
        }
    }

    /// What a server answers with.
    pub(crate) fn accept(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1", b"istio-http/1.1"],
            Self::Http2 => &[b"h2", b"istio-h2"],
            Self::Opaque => &[b"istio", b"istio-peer-exchange"],
        }
    }

    /// Classifies an offered list; `None` for TLS that is not the mesh's.
    pub(crate) fn of_offer<'a>(offered: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut mesh = false;
        for protocol in offered {
            match protocol {
                b"istio-h2" => return Some(Self::Http2),
                b"istio-http/1.1" | b"istio-http/1.0" => return Some(Self::Http1),
                b"istio" | b"istio-peer-exchange" => mesh = true,
                _ => {}
            }
        }
        mesh.then_some(Self::Opaque)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offered_list_tells_what_is_inside() {
        type Row = (&'static str, &'static [&'static [u8]], Option<Speaks>);
        let rows: &[Row] = &[
            ("our own http/1", Speaks::Http1.offer(), Some(Speaks::Http1)),
            ("our own http/2", Speaks::Http2.offer(), Some(Speaks::Http2)),
            ("our own tcp", Speaks::Opaque.offer(), Some(Speaks::Opaque)),
            (
                "istio tcp",
                &[b"istio-peer-exchange", b"istio"],
                Some(Speaks::Opaque),
            ),
            ("a browser", &[b"h2", b"http/1.1"], None),
            ("nothing", &[], None),
        ];
        for (name, offered, want) in rows {
            assert_eq!(Speaks::of_offer(offered.iter().copied()), *want, "{name}");
        }
    }
}
