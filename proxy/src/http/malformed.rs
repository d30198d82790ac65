//! What is wrong with a message that we refuse, by name.
//!
//! Each is counted under its label and answered with its status; none is repaired, because two readers of a message that
//! needs repair may repair it differently, and that difference is request smuggling.

use http::StatusCode;

/// Why a message was refused. The rule is RFC 9112 or RFC 9110 unless the variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a line ends in LF without CR")]
    BareLf,
    #[error("a header line is folded")]
    ObsFold,
    #[error("the request line cannot be read")]
    RequestLine,
    #[error("the status line cannot be read")]
    StatusLine,
    #[error("more than {MAX_INTERIM} interim answers came before the answer")]
    Interim,
    #[error("a header line cannot be read")]
    Header,
    #[error("the header is longer than the limit")]
    HeaderTooLarge,
    #[error("the header has more lines than the limit")]
    TooManyHeaders,
    #[error("the request line is longer than the limit")]
    TargetTooLong,
    #[error("only HTTP/1.0 and HTTP/1.1 are served here")]
    Version,
    #[error("the method is a known one in the wrong case")]
    MethodCase,
    #[error("the request target cannot be read")]
    Target,
    #[error("the path cannot be normalised")]
    Path,
    #[error("the Host header is missing")]
    HostMissing,
    #[error("there is more than one Host")]
    HostSeveral,
    #[error("the Host is not a host")]
    HostInvalid,
    #[error("Transfer-Encoding and Content-Length are both there")]
    TeAndCl,
    #[error("the Transfer-Encoding is not exactly \"chunked\"")]
    TransferEncoding,
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    TeInHttp10,
    #[error("the Content-Length is not one number")]
    ContentLength,
    #[error("a chunk cannot be read")]
    Chunk,
    #[error("a trailer cannot be read")]
    Trailer,
    #[error("bytes came before the protocol was switched")]
    BytesBeforeUpgrade,
    #[error("an Upgrade request carries a body")]
    UpgradeWithBody,
}

/// Most 1xx answers to one request: each is kept until the caller has read it, and a service may send as many as it likes.
pub(crate) const MAX_INTERIM: u32 = 32;

impl Malformed {
    /// Label of `weft_malformed_total`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::ObsFold => "obs_fold",
            Self::RequestLine => "request_line",
            Self::StatusLine => "status_line",
            Self::Interim => "interim",
            Self::Header => "header",
            Self::HeaderTooLarge => "header_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::TargetTooLong => "target_too_long",
            Self::Version => "version",
            Self::MethodCase => "method_case",
            Self::Target => "target",
            Self::Path => "path",
            Self::HostMissing => "host_missing",
            Self::HostSeveral => "host_several",
            Self::HostInvalid => "host_invalid",
            Self::TeAndCl => "te_and_cl",
            Self::TransferEncoding => "transfer_encoding",
            Self::TeInHttp10 => "te_in_http10",
            Self::ContentLength => "content_length",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::BytesBeforeUpgrade => "bytes_before_upgrade",
            Self::UpgradeWithBody => "upgrade_with_body",
        }
    }

    /// Status of the answer to whoever sent it as a request.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::HeaderTooLarge | Self::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::BareLf
            | Self::ObsFold
            | Self::RequestLine
            | Self::StatusLine
            | Self::Interim
            | Self::Header
            | Self::MethodCase
            | Self::Target
            | Self::Path
            | Self::HostMissing
            | Self::HostSeveral
            | Self::HostInvalid
            | Self::TeAndCl
            | Self::TeInHttp10
            | Self::ContentLength
            | Self::Chunk
            | Self::Trailer
            | Self::BytesBeforeUpgrade
            | Self::UpgradeWithBody => StatusCode::BAD_REQUEST,
        }
    }
}
