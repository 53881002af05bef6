//! Lists of revoked certificates (RFC 5280, section 5), and what an operator has to know of them:
//! rustls takes a list that is late, and one of an authority that signs no client's certificate.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::SystemTime,
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem, pem::PemObject as _};
use x509_cert::{Certificate, crl::CertificateList, der::Decode as _, name::Name};

use super::tls::{TlsError, of_file};
use crate::transport::pem::problem;

const SETTING: &str = "--tls-client-crl";

/// The lists of a file.
#[derive(Debug, Default)]
pub(super) struct RevocationLists {
    pub lists: Vec<CertificateRevocationListDer<'static>>,
    file: String,
    /// Who issued a list and is not trusted here.
    foreign: Option<String>,
    foreign_told: AtomicBool,
    /// When the first of them should have been replaced.
    until: Option<SystemTime>,
    late_told: AtomicBool,
}

impl RevocationLists {
    /// Reads the file; `authorities` sign the clients' certificates.
    pub(super) fn read(file: &Path, authorities: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        let refuse = |e: pem::Error| of_file(SETTING, file, &problem(&e, "revocation list"));
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_file_iter(file)
            .map_err(refuse)?
            .collect();
        let lists = lists.map_err(refuse)?;
        if lists.is_empty() {
            // Without a list nothing would be revoked.
            let none = "holds no revocation list (PEM; openssl crl -inform DER makes one of DER)";
            return Err(of_file(SETTING, file, &none));
        }
        let subject = |der: &CertificateDer<'_>| {
            Certificate::from_der(der)
                .ok()
                .map(|it| it.tbs_certificate.subject)
        };
        let trusted: Vec<Name> = authorities.iter().filter_map(subject).collect();
        // What cannot be read here, rustls says more of.
        let read: Vec<_> = lists
            .iter()
            .filter_map(|list| Some(CertificateList::from_der(list).ok()?.tbs_cert_list))
            .collect();
        let foreign = read
            .iter()
            .find(|list| !trusted.contains(&list.issuer))
            .map(|list| list.issuer.to_string());
        let until = read
            .iter()
            .filter_map(|list| list.next_update)
            .map(|time| time.to_system_time())
            .min();
        Ok(Self {
            foreign,
            until,
            file: file.display().to_string(),
            lists,
            ..Self::default()
        })
    }

    /// Says what revokes nothing, or less than it should: once of each file.
    pub(super) fn complain(&self, now: SystemTime) {
        let file = &self.file;
        if let Some(foreign) = self.foreign.as_ref()
            && !self.foreign_told.swap(true, Relaxed)
        {
            tracing::warn!(
                event = "tls.foreign_revocations",
                "{SETTING} {file}: no authority in --tls-client-ca is {foreign}, which issued a \
                 list in it; that list concerns only certificates of an intermediate authority of \
                 this name"
            );
        }
        if let Some(since) = self.late(now)
            && !self.late_told.swap(true, Relaxed)
        {
            let since = humantime::format_rfc3339_seconds(since);
            tracing::warn!(
                event = "tls.late_revocations",
                "{SETTING} {file}: a list in it should have been replaced by {since}; what was \
                 revoked later is let in"
            );
        }
    }

    /// Since when a list is late.
    fn late(&self, now: SystemTime) -> Option<SystemTime> {
        self.until.filter(|until| *until < now)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    };

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_list_that_is_late_or_of_nobody_is_noticed() {
        let (ours, theirs) = (authority("ours"), authority("theirs"));
        let now = time::OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::HOUR,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&ours).unwrap().pem().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crl.pem");
        fs::write(&file, pem).unwrap();
        let read = |authority: &CertifiedIssuer<'static, KeyPair>| {
            RevocationLists::read(&file, &[authority.der().clone()]).unwrap()
        };
        let good = read(&ours);
        let now = SystemTime::now();
        assert_eq!(
            (good.foreign.as_deref(), good.late(now), good.lists.len()),
            (None, None, 1)
        );
        assert!(good.late(now + Duration::from_secs(4_000)).is_some());
        assert_eq!(read(&theirs).foreign.as_deref(), Some("CN=ours"));
    }
}
