//! Why a handshake with a server failed, in the words of who has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// One line for the error of a TLS connection to `url`: what happened, and what to do. `authorities`
/// names where trusted certificates come from.
#[must_use]
pub fn explain(error: &io::Error, url: &str, authorities: &str) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain_tls(error, url, authorities),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("{url} closed the connection during the TLS handshake")
        }
        None => error.to_string(),
    }
}

fn explain_tls(error: &Error, url: &str, authorities: &str) -> String {
    match error {
        Error::InvalidCertificate(why) => explain_certificate(why, url, authorities),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => format!(
            "{url} answers without TLS: start it with --certs-dir, or write http:// if it is meant to"
        ),
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            format!("{url} speaks TLS but not HTTP/2: is it a node of Holdfast?")
        }
        other => format!("TLS with {url}: {other}"),
    }
}

fn explain_certificate(why: &CertificateError, url: &str, authorities: &str) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {url} is of no authority known here: put that authority's certificate \
             into {authorities}"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {url} has expired: renew it there")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!(
                "the certificate of {url} is not valid yet: compare the clocks of both machines"
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the certificate of {url} is not for that host: issue it with the host among its \
                 subject alternative names"
            )
        }
        CertificateError::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => format!(
            "the certificate of {url} is one of an authority (CA:TRUE): issue the node one of its own"
        ),
        other => format!("the certificate of {url} is not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what an operator can mend is said. Method: errors as rustls makes them.
    #[test]
    fn failures_say_what_to_do() {
        let of = |error: Error| {
            let io = io::Error::new(io::ErrorKind::InvalidData, error);
            explain(&io, "https://n:1", "C/CAs")
        };
        let certificate = |why| of(Error::InvalidCertificate(why));
        assert!(certificate(CertificateError::UnknownIssuer).contains("C/CAs"));
        assert!(certificate(CertificateError::Expired).contains("expired"));
        assert!(certificate(CertificateError::NotValidForName).contains("subject alternative"));
        let plain = of(Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert!(plain.contains("without TLS") && plain.contains("https://n:1"), "{plain}");
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(explain(&eof, "https://n:1", "").contains("handshake"));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(explain(&refused, "https://n:1", ""), "connection refused");
    }
}
