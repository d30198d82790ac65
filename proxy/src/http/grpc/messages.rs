//! Counts the messages of a gRPC body as its bytes pass, in pieces of any size; reads nothing of what they say.

/// How many messages have begun, and where in one we are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    count: u64,
    /// Bytes of the prefix that have come.
    prefix: u8,
    /// The length so far, while the prefix comes; then what is still to come of the message.
    left: u32,
}

impl Messages {
    /// Messages whose prefix has come.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The next bytes: "Length-Prefixed-Message -> Compressed-Flag Message-Length Message", a byte and four, big endian
    /// (gRPC PROTOCOL-HTTP2, Requests).
    pub(crate) fn see(&mut self, mut data: &[u8]) {
        while let [first, rest @ ..] = data {
            if self.prefix == PREFIX {
                let skipped = data
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                data = data.get(skipped..).unwrap_or_default();
                self.skip(skipped);
                continue;
            }
            if self.prefix > 0 {
                self.left = self.left << 8 | u32::from(*first);
            }
            self.prefix += 1;
            data = rest;
            if self.prefix == PREFIX {
                self.count += 1;
                self.skip(0);
            }
        }
    }

    /// Passes over bytes of the message; after its last one another may begin.
    fn skip(&mut self, bytes: usize) {
        self.left -= u32::try_from(bytes).unwrap_or(self.left).min(self.left);
        if self.left == 0 {
            self.prefix = 0;
        }
    }
}

const PREFIX: u8 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(lengths: &[u32]) -> Vec<u8> {
        let message = |length: &u32| {
            let mut message = vec![0];
            message.extend(length.to_be_bytes());
            message.extend(vec![7; usize::try_from(*length).unwrap()]);
            message
        };
        lengths.iter().flat_map(message).collect()
    }

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(0_u32..600, 0..20),
            piece in 1_usize..700,
        ) {
            let mut messages = Messages::default();
            for part in body(&lengths).chunks(piece) {
                messages.see(part);
            }
            prop_assert_eq!(messages.count(), lengths.len() as u64);
        }
    }

    #[test]
    fn what_is_no_message_harms_nobody() {
        let mut messages = Messages::default();
        messages.see(&[0, 0xff, 0xff, 0xff, 0xff]);
        messages.see(&[1; 100]);
        assert_eq!(messages.count(), 1);
        messages.see(&[]);
        assert_eq!(messages.count(), 1);
    }
}
