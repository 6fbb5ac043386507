//! The runtime's acts: what a crash may come right before or right after, in every service.

crate::acts! {
    /// The runtime's tables are brought up to date.
    MIGRATE_RUNTIME = "migrate.runtime";
    /// The service's own are.
    MIGRATE_SERVICE = "migrate.service";
    /// Topics that are missing are created.
    CREATE_TOPICS = "topics.create";
    /// Positions of partitions that are new are written.
    FIRST_POSITIONS = "positions.insert";

    /// A batch's transaction begins.
    BEGIN = "consumer.begin";
    /// The service loads, decides and writes.
    APPLY = "consumer.apply";
    /// Dead letters are written to the outbox.
    BURY = "consumer.bury";
    /// The position moves.
    ADVANCE = "consumer.advance";
    /// A batch's transaction is committed; only then does its task go on.
    COMMIT = "consumer.commit";
    /// Kafka is told the position, as a hint.
    HINT = "consumer.hint";

    /// Events are written to the outbox.
    LEAVE = "outbox.insert";
    /// One row is handed to the producer.
    SEND = "relay.send";
    /// One row is acknowledged.
    ACKNOWLEDGE = "relay.acknowledge";
    /// What was acknowledged is deleted from the outbox.
    DELETE = "relay.delete";
    /// A dead letter that its topic refuses is cut.
    CUT = "relay.cut";

    /// The answers of accepted calls are written under their keys.
    KEEP = "idempotency.insert";
    /// Keys that have expired are deleted.
    PURGE = "idempotency.purge";
    /// That is committed.
    PURGE_COMMIT = "idempotency.commit";
}
