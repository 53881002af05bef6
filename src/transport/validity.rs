//! How long the certificates of the main listener are valid. rustls serves one that has expired,
//! and every client refuses it; so the operator is told in the log, before and when it happens, and
//! by a metric.

use std::{
    path::Path,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode as _};

/// A certificate expires soon when less than a tenth of its lifetime is left (renewal is usual
/// after two thirds), but not sooner than this before its end.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The certificates of the listener's files.
#[derive(Debug, Default)]
pub(super) struct CertificateValidity(Vec<CertificateTerm>);

#[derive(Debug)]
struct CertificateTerm {
    setting: &'static str,
    file: String,
    subject: String,
    begins: SystemTime,
    ends: SystemTime,
    /// What the operator was told last, as a [`ExpiryState`].
    told: AtomicU8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpiryState {
    Valid,
    NotYet,
    EndsSoon,
    Over,
}

impl CertificateValidity {
    /// Adds the certificates of a file. What cannot be read here, rustls says more of.
    pub(super) fn add(
        &mut self,
        setting: &'static str,
        file: &Path,
        certificates: &[CertificateDer<'_>],
    ) {
        let read = certificates
            .iter()
            .filter_map(|der| Some(Certificate::from_der(der).ok()?.tbs_certificate));
        self.0.extend(read.map(|certificate| CertificateTerm {
            setting,
            file: file.display().to_string(),
            subject: certificate.subject.to_string(),
            begins: certificate.validity.not_before.to_system_time(),
            ends: certificate.validity.not_after.to_system_time(),
            told: AtomicU8::new(ExpiryState::Valid as u8),
        }));
    }

    /// The settings, and when the first certificate of each expires.
    pub(super) fn ends(&self) -> Vec<(&'static str, SystemTime)> {
        let mut ends: Vec<(&'static str, SystemTime)> = Vec::new();
        for term in &self.0 {
            match ends
                .iter_mut()
                .find(|(setting, _)| *setting == term.setting)
            {
                Some((_, first)) => *first = term.ends.min(*first),
                None => ends.push((term.setting, term.ends)),
            }
        }
        ends
    }

    /// Says which certificates are not valid, or will not be for long: once of each that it has
    /// become so.
    pub(super) fn complain(&self, now: SystemTime) {
        for term in &self.0 {
            let standing = term.standing(now);
            if term.told.swap(standing as u8, Relaxed) != standing as u8 {
                term.complain(standing);
            }
        }
    }
}

impl CertificateTerm {
    fn standing(&self, now: SystemTime) -> ExpiryState {
        let lifetime = self.ends.duration_since(self.begins).unwrap_or_default();
        let left = self.ends.duration_since(now).unwrap_or_default();
        if now > self.ends {
            ExpiryState::Over
        } else if now < self.begins {
            ExpiryState::NotYet
        } else if left < SOON.min(lifetime / 10) {
            ExpiryState::EndsSoon
        } else {
            ExpiryState::Valid
        }
    }

    fn complain(&self, standing: ExpiryState) {
        let Self {
            setting,
            file,
            subject,
            ..
        } = self;
        let [begins, ends] = [self.begins, self.ends].map(humantime::format_rfc3339_seconds);
        match standing {
            ExpiryState::Valid => {}
            ExpiryState::Over => tracing::error!(
                event = "tls.certificate_expired",
                %ends,
                "{setting} {file}: the certificate of {subject} expired at {ends}, so connections \
                 that need it are refused; renew it in that file, which is read again when it \
                 changes"
            ),
            ExpiryState::NotYet => tracing::error!(
                event = "tls.certificate_not_yet_valid",
                %begins,
                "{setting} {file}: the certificate of {subject} is valid from {begins} on, so \
                 connections that need it are refused; check the clocks, or replace it"
            ),
            ExpiryState::EndsSoon => tracing::warn!(
                event = "tls.certificate_expires",
                %ends,
                "{setting} {file}: the certificate of {subject} expires at {ends}; renew it in \
                 that file, which is read again when it changes"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soon_is_a_tenth_of_a_lifetime_and_at_most_two_weeks() {
        let day = Duration::from_secs(86_400);
        let start = SystemTime::UNIX_EPOCH + day * 10_000;
        let standing = |days: u32, now: SystemTime| {
            let (begins, ends) = (start, start + day * days);
            let (file, subject, told) = (String::new(), String::new(), AtomicU8::new(0));
            CertificateTerm {
                setting: "--tls-cert",
                file,
                subject,
                begins,
                ends,
                told,
            }
            .standing(now)
        };
        for (lifetime, at, expected) in [
            (90, 80, ExpiryState::Valid),
            (90, 82, ExpiryState::EndsSoon),
            (90, 91, ExpiryState::Over),
            (3650, 3600, ExpiryState::Valid),
            (3650, 3640, ExpiryState::EndsSoon),
            (1, 0, ExpiryState::Valid),
        ] {
            assert_eq!(
                standing(lifetime, start + day * at),
                expected,
                "{lifetime} {at}"
            );
        }
        assert_eq!(standing(90, start - day), ExpiryState::NotYet);
    }
}
