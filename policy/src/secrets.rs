//! What is not shown in logs, spans and explanations: values whose name sounds like a secret's.

/// Whether `name`, of a header or a query parameter, sounds like that of a secret. Rather once too often than not.
#[must_use]
pub fn sounds_like_one(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

const PARTS: [&str; 14] = [
    "token", "key", "secret", "pass", "pwd", "auth", "cred", "session", "sid", "sig", "code",
    "jwt", "cookie", "otp",
];

#[cfg(test)]
mod tests {
    use super::sounds_like_one;

    #[test]
    fn names_are_told_apart() {
        for name in ["Authorization", "x-api-key", "Set-Cookie", "access_token"] {
            assert!(sounds_like_one(name), "{name}");
        }
        for name in ["x-canary", "accept", "page"] {
            assert!(!sounds_like_one(name), "{name}");
        }
    }
}
