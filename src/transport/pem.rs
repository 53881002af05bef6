//! What is wrong with a PEM file, in words that quote none of it: the library's own show the line,
//! and the line may be a key.

use rustls::pki_types::pem::Error;

/// Why nothing was read. `what` was looked for: "certificate", "private key".
pub(crate) fn problem(error: &Error, what: &str) -> String {
    match error {
        Error::NoItemsFound => format!("holds no {what} in PEM that is not encrypted"),
        Error::MissingSectionEnd { .. } => {
            "is not whole: the END line is missing, or the line breaks are lost".into()
        }
        Error::IllegalSectionStart { .. } => {
            "is no PEM: a BEGIN line is not a line of its own".into()
        }
        Error::Base64Decode(_) => "is no PEM: what is between BEGIN and END is not base64".into(),
        Error::Io(error) => error.to_string(),
        _ => "is no PEM".into(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

    use super::*;

    #[test]
    fn no_byte_of_the_file_is_told() {
        for (text, told) in [
            ("", "holds no private key in PEM that is not encrypted"),
            (
                "-----BEGIN PRIVATE KEY-----MARK",
                "is no PEM: a BEGIN line is not a line of its own",
            ),
            (
                "-----BEGIN PRIVATE KEY-----MARK-----END PRIVATE KEY-----",
                "is not whole: the END line is missing, or the line breaks are lost",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMARK\n",
                "is not whole: the END line is missing, or the line breaks are lost",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMA=RK\n-----END PRIVATE KEY-----\n",
                "is no PEM: what is between BEGIN and END is not base64",
            ),
        ] {
            let error = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap_err();
            assert_eq!(problem(&error, "private key"), told, "{error}");
        }
    }
}
