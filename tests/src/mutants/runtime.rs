//! A faulty messaging runtime: sending, consuming and committing.

use super::{Edit, Mutant, integration, unit};

const RELAY: &str = "service-kit/src/messaging/relay.rs";
const RELAY_ROWS: &str = "service-kit/src/messaging/relay/rows.rs";
const RELAY_PRODUCER: &str = "service-kit/src/messaging/relay/producer.rs";
const OUTBOX: &str = "service-kit/src/messaging/outbox.rs";
const OFFSET: &str = "service-kit/src/messaging/consumer/offset.rs";
const PARTITION: &str = "service-kit/src/messaging/consumer/partition.rs";
const DATABASE: &str = "service-kit/src/messaging/database.rs";
const ASSIGNMENT: &str = "service-kit/src/messaging/consumer/assignment.rs";
const FAULT: &str = "service-kit/src/messaging/fault.rs";
const IDEMPOTENCY: &str = "service-kit/src/messaging/idempotency.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "relay-by-a-cursor-on-seq",
        defect: "the relay reads only rows numbered after the last row that it sent",
        edits: &[
            Edit {
                file: RELAY,
                original: "    one_by_one: bool,\n    producer: Option<FutureProducer>,",
                mutated: "    one_by_one: bool,\n    cursor: i64,\n    producer: Option<FutureProducer>,",
            },
            Edit { file: RELAY, original: "            producer: None,\n", mutated: "            producer: None,\n            cursor: 0,\n" },
            Edit {
                file: RELAY,
                original: "let rows = read_rows(connection, self.shard).await?;",
                mutated: "let mut rows = read_rows(connection, self.shard).await?;
        rows.retain(|row| row.seq > self.cursor);",
            },
            Edit {
                file: RELAY,
                original: "        self.metrics.outbox_sent.inc_by(rows.len() as u64);",
                mutated: "        self.cursor = rows.last().map_or(self.cursor, |row| row.seq);
        self.metrics.outbox_sent.inc_by(rows.len() as u64);",
            },
        ],
        killers: &[integration("relay::rows_that_commit_late_are_sent")],
    },
    Mutant {
        name: "relay-by-txid-and-seq",
        defect: "the relay sends in the order in which transactions began to write",
        edits: &[
            Edit {
                file: RELAY_ROWS,
                original: "from (select seq, topic, key, headers, payload,",
                mutated: "from (select txid, seq, topic, key, headers, payload,",
            },
            Edit {
                file: RELAY_ROWS,
                original: "from (select seq, topic, key, headers, payload from outbox",
                mutated: "from (select xmin::text::bigint as txid, seq, topic, key, headers, payload from outbox",
            },
            Edit {
                file: RELAY_ROWS,
                original: "where shard = $1 order by seq limit $2",
                mutated: "where shard = $1 and xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                     order by xmin::text::bigint, seq limit $2",
            },
            Edit {
                file: RELAY_ROWS,
                original: "where bytes_before < $3\n         order by seq",
                mutated: "where bytes_before < $3\n         order by txid, seq",
            },
        ],
        killers: &[integration("relay::a_shard_is_sent_by_its_owner_in_seq_order")],
    },
    Mutant {
        name: "relay-without-a-lock",
        defect: "every replica sends every shard",
        edits: &[Edit {
            file: RELAY,
            original: "    Ok(timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?)",
            mutated: "    let _: bool = timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?;\n    Ok(true)",
        }],
        killers: &[integration("relay::a_shard_is_sent_by_its_owner_in_seq_order")],
    },
    Mutant {
        name: "delete-before-the-acknowledgement",
        defect: "rows are deleted before Kafka has them",
        edits: &[Edit {
            file: RELAY,
            original: "        while let Some(delivery) = deliveries.pop_front() {",
            mutated: "        delete_rows(connection, self.shard, &rows).await?;
        while let Some(delivery) = deliveries.pop_front() {",
        }],
        killers: &[integration("poison::dead_letters_over_the_limit_of_their_topic")],
    },
    Mutant {
        name: "identity-made-anew",
        defect: "an event has another `ce_id` each time it is sent",
        edits: &[Edit {
            file: RELAY_PRODUCER,
            original: "            all.insert(Header { key: &header.0, value: header.1.as_deref() })",
            mutated: "            let anew = shared_events::EventId::new().0.into_bytes();
            let value = if header.0 == \"ce_id\" { Some(anew.as_slice()) } else { header.1.as_deref() };
            all.insert(Header { key: &header.0, value })",
        }],
        killers: &[integration("relay::an_event_sent_again_keeps_its_identity")],
    },
    Mutant {
        name: "events-in-another-order",
        defect: "one transaction's events are numbered from the last to the first",
        edits: &[Edit { file: OUTBOX, original: "order by place\"", mutated: "order by place desc\"" }],
        killers: &[integration("version_chain::is_unbroken_under_load")],
    },
    Mutant {
        name: "no-compare-and-set",
        defect: "the position is moved wherever it stands",
        edits: &[Edit {
            file: OFFSET,
            original: "and partition = $3 and next = $4\"",
            mutated: "and partition = $3 and $4::bigint is not null\"",
        }],
        killers: &[integration("fencing::a_former_owner_writes_nothing")],
    },
    Mutant {
        name: "position-expected-at-the-record",
        defect: "the expected position is the record's offset, not the stored position",
        edits: &[Edit {
            file: PARTITION,
            original: "partition, self.next, &target)",
            mutated: "partition, batch[0].record.offset, &target)",
        }],
        killers: &[integration("poison::after_transaction_markers")],
    },
    Mutant {
        name: "position-before-the-effects",
        defect: "the position is moved outside the transaction, just before its commit",
        edits: &[
            Edit {
                file: PARTITION,
                original: "            let (topic, partition) = (&shared.topic, self.partition);\n",
                mutated: "            let (topic, partition) = (&shared.topic, self.partition);
            let mut elsewhere = shared.pool.acquire().await?;\n",
            },
            Edit { file: PARTITION, original: "offset::advance(&mut transaction,", mutated: "offset::advance(&mut elsewhere," },
        ],
        killers: &[integration("atomicity::a_batch_commits_all_at_once")],
    },
    Mutant {
        name: "position-after-the-effects",
        defect: "the position is moved outside the transaction, after its commit",
        edits: &[
            Edit {
                file: PARTITION,
                original: "            let (topic, partition) = (&shared.topic, self.partition);\n",
                mutated: "            let (topic, partition) = (&shared.topic, self.partition);
            let unmoved = Position { next: self.next, last_record: self.unverified_record.clone() };\n",
            },
            Edit { file: PARTITION, original: "partition, self.next, &target)", mutated: "partition, self.next, &unmoved)" },
            Edit {
                file: PARTITION,
                original: "            Ok(effects)\n        };",
                mutated: "            let mut elsewhere = shared.pool.acquire().await?;
            offset::advance(&mut elsewhere, shared.consumer, topic, partition, self.next, &target).await?;
            Ok(effects)\n        };",
            },
        ],
        killers: &[integration("fencing::two_owners_of_every_partition")],
    },
    Mutant {
        name: "dead-letter-outside-the-transaction",
        defect: "a dead letter is written in its own transaction, before the position moves",
        edits: &[
            Edit {
                file: PARTITION,
                original: "            let dead_letters = sorted.dead_letter_rows(&shared);\n",
                mutated: "            let mut elsewhere = shared.pool.acquire().await?;
            let dead_letters = sorted.dead_letter_rows(&shared);\n",
            },
            Edit {
                file: PARTITION,
                original: "outbox::insert(&mut transaction, &dead_letters)",
                mutated: "outbox::insert(&mut elsewhere, &dead_letters)",
            },
        ],
        killers: &[integration("atomicity::a_batch_commits_all_at_once")],
    },
    Mutant {
        name: "poison-for-ever",
        defect: "a poison record is retried forever",
        edits: &[Edit {
            file: PARTITION,
            original: "Attempt::Retry => Attempt::DeadLetter(reason),",
            mutated: "Attempt::Retry => Attempt::Retry,",
        }],
        killers: &[integration("poison::one_record_within_a_batch")],
    },
    Mutant {
        name: "poison-not-isolated",
        defect: "valid records become dead letters with the poison record of their batch",
        edits: &[Edit {
            file: PARTITION,
            original: "Err(Fault::Poison(_)) => push_halves(&mut ranges, range),",
            mutated: "Err(Fault::Poison(reason)) => ranges.push_front((range, Attempt::DeadLetter(reason))),",
        }],
        killers: &[integration("poison::one_record_within_a_batch")],
    },
    Mutant {
        name: "last-record-not-verified",
        defect: "a recreated log is read as if it were the old one",
        edits: &[
            Edit { file: PARTITION, original: "            unverified_record: position.last_record,", mutated: "            unverified_record: None," },
            Edit { file: PARTITION, original: "        self.unverified_record = position.last_record;", mutated: "        self.unverified_record = None;" },
        ],
        killers: &[integration("recreated_topic::its_partitions_are_halted")],
    },
    Mutant {
        name: "generations-ignored",
        defect: "records of an assignment that has ended are applied",
        edits: &[Edit {
            file: ASSIGNMENT,
            original: "        if let Some(assigned) = self.partitions().remove(&partition) {
            assigned.queue.close();
        }",
            mutated: "        self.partitions().remove(&partition);",
        }],
        killers: &[unit("service-kit")],
    },
    Mutant {
        name: "deadlock-is-poison",
        defect: "a deadlock turns a record into a dead letter",
        edits: &[
            Edit { file: FAULT, original: "(\"22\" | \"23\" | \"54\", _)", mutated: "(\"22\" | \"23\" | \"40\" | \"54\", _)" },
            Edit { file: FAULT, original: "(\"08\" | \"40\" | \"53\"", mutated: "(\"08\" | \"53\"" },
        ],
        killers: &[unit("service-kit")],
    },
    Mutant {
        name: "key-taken-twice",
        defect: "of two calls that find a key free, both have an effect",
        edits: &[Edit {
            file: IDEMPOTENCY,
            original: "if saved == new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }",
            mutated: "if saved <= new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }",
        }],
        killers: &[integration("idempotency::two_replicas_find_the_same_key_free")],
    },
    Mutant {
        name: "only-on-its-own-schema",
        defect: "a release does not start where a newer one has migrated",
        edits: &[Edit {
            file: DATABASE,
            original: "migrator.set_ignore_missing(true);",
            mutated: "migrator.set_ignore_missing(false);",
        }],
        killers: &[integration("rolling_upgrade::an_older_release_starts_on_a_newer_schema")],
    },
];
