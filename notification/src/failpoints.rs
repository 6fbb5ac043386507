//! The service's own failpoints, beside those of service-kit.

service_kit::failpoints! {
    /// Inserts notifications, and the e-mails that follow from them.
    RECORD = "notification.record";
    /// Claims e-mails.
    CLAIM = "email.claim";
    /// Commits the claim.
    COMMIT_CLAIM = "email.commit-claim";
    /// Hands an e-mail to the mail server.
    SEND = "email.send";
    /// Records the outcome of an attempt.
    RECORD_OUTCOME = "email.record-outcome";
    /// Commits that record.
    COMMIT_OUTCOME = "email.commit-outcome";
}
