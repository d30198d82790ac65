//! Hands a script to the `nft` program, which applies it in one transaction or not at all.

use std::io::{self, Write};
use std::process::{Command, ExitStatus, Output, Stdio};

/// Why a script was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum NftError {
    #[error(
        "the program `nft` is not in PATH: install the package nftables, or use the weft image, which has it"
    )]
    Missing,
    #[error(
        "no right to change nftables here: run as uid 0 with the capability NET_ADMIN, as an init container before the app"
    )]
    NotPermitted,
    #[error("run `nft`")]
    Run { source: io::Error },
    #[error("`nft` refused the table ({status}): {message}")]
    Refused { status: ExitStatus, message: String },
}

/// Applies `script` with `nft -f -`, where `nft` is the program to run.
///
/// # Errors
/// When the program is missing, may not, or refuses; then nothing has changed.
pub(super) fn apply(mut nft: Command, script: &str) -> Result<(), NftError> {
    let output = run(nft.args(["-f", "-"]).env("LC_ALL", "C"), script).map_err(|source| {
        match source.kind() {
            io::ErrorKind::NotFound => NftError::Missing,
            _ => NftError::Run { source },
        }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("Operation not permitted") {
        return Err(NftError::NotPermitted);
    }
    Err(NftError::Refused {
        status: output.status,
        message,
    })
}

fn run(nft: &mut Command, script: &str) -> io::Result<Output> {
    let mut child = nft
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // A program that ends before it has read all says why on its standard error, which tells more than a broken pipe.
    let _ = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{NftError, apply};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn missing_program_is_named_with_its_package() {
        let error = apply(Command::new("weft-no-such-program"), "").unwrap_err();
        assert!(matches!(error, NftError::Missing), "{error:?}");
        assert!(
            error.to_string().contains("install the package nftables"),
            "{error}"
        );
    }

    #[test]
    fn missing_right_is_told_with_its_capability() {
        let error = apply(
            shell("echo 'Error: Operation not permitted (you must be root)' >&2; exit 1"),
            "",
        )
        .unwrap_err();
        assert!(matches!(error, NftError::NotPermitted), "{error:?}");
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
    }

    #[test]
    fn other_refusals_carry_what_nft_said() {
        let error = apply(
            shell("cat >/dev/null; echo 'syntax error, line 3' >&2; exit 1"),
            "x",
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("syntax error, line 3"),
            "{error}"
        );
    }

    #[test]
    fn script_reaches_the_program_whole() {
        assert!(
            apply(
                shell("test \"$(cat)\" = 'add table inet weft'"),
                "add table inet weft"
            )
            .is_ok()
        );
    }
}
