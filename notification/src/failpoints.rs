//! What a crash may come right before or right after, beside the runtime's own acts.

service_kit::failpoints! {
    /// Notifications are written, with the e-mails that are to follow from them.
    RECORD = "notification.record";
    /// E-mails are claimed.
    CLAIM = "email.claim";
    /// That is committed.
    COMMIT_CLAIM = "email.commit-claim";
    /// An e-mail is handed to the mail server.
    SEND = "email.send";
    /// What came of it is written.
    CONCLUDE = "email.conclude";
    /// That is committed.
    COMMIT_CONCLUSION = "email.commit-conclusion";
}
