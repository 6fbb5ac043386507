//! This crate's failpoints, which every service passes.

crate::failpoints! {
    /// Migrates the runtime's own tables.
    MIGRATE_RUNTIME = "migrate.runtime";
    /// Migrates the service's tables.
    MIGRATE_SERVICE = "migrate.service";
    /// Creates missing topics.
    CREATE_TOPICS = "topics.create";
    /// Inserts the positions of new partitions.
    FIRST_POSITIONS = "positions.insert";

    /// Begins a batch's transaction.
    BEGIN = "consumer.begin";
    /// Runs the service's handler: load, fold, save.
    APPLY = "consumer.apply";
    /// Inserts dead letters into the outbox.
    DEAD_LETTER = "consumer.dead-letter";
    /// Moves the position.
    ADVANCE = "consumer.advance";
    /// Commits a batch's transaction; only then does its task go on.
    COMMIT = "consumer.commit";
    /// Commits the offset to Kafka, as a hint for lag tools.
    COMMIT_OFFSET = "consumer.commit-offset";

    /// Inserts events into the outbox.
    INSERT_OUTBOX = "outbox.insert";
    /// Hands one row to the producer.
    SEND = "relay.send";
    /// Receives the acknowledgement of one row.
    ACKNOWLEDGE = "relay.acknowledge";
    /// Deletes acknowledged rows from the outbox.
    DELETE = "relay.delete";
    /// Truncates a dead letter that its topic refuses.
    TRUNCATE = "relay.truncate";

    /// Inserts the responses of accepted calls under their keys.
    STORE_RESPONSE = "idempotency.insert";
    /// Deletes expired keys.
    PURGE = "idempotency.purge";
    /// Commits that deletion.
    PURGE_COMMIT = "idempotency.commit";
}
