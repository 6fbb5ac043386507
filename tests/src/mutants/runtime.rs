//! A runtime that sends, reads or commits wrongly.

use super::{Edit, Mutant, integration, unit};

const RELAY: &str = "service-kit/src/messaging/outbox/relay.rs";
const RELAY_ROWS: &str = "service-kit/src/messaging/outbox/relay/rows.rs";
const RELAY_PRODUCER: &str = "service-kit/src/messaging/outbox/relay/producer.rs";
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
        wrong: "the relay reads only what is numbered after what it has sent",
        edits: &[
            Edit {
                file: RELAY,
                right: "    one_by_one: bool,\n    producer: Option<FutureProducer>,",
                wrong: "    one_by_one: bool,\n    cursor: i64,\n    producer: Option<FutureProducer>,",
            },
            Edit { file: RELAY, right: "            producer: None,\n", wrong: "            producer: None,\n            cursor: 0,\n" },
            Edit {
                file: RELAY,
                right: "let rows = read_rows(connection, self.shard).await?;",
                wrong: "let mut rows = read_rows(connection, self.shard).await?;
        rows.retain(|row| row.seq > self.cursor);",
            },
            Edit {
                file: RELAY,
                right: "        self.metrics.outbox_sent.inc_by(rows.len() as u64);",
                wrong: "        self.cursor = rows.last().map_or(self.cursor, |row| row.seq);
        self.metrics.outbox_sent.inc_by(rows.len() as u64);",
            },
        ],
        killers: &[integration("relay::what_commits_late_is_sent")],
    },
    Mutant {
        name: "relay-by-txid-and-seq",
        wrong: "the relay sends in the order in which transactions began to write",
        edits: &[
            Edit {
                file: RELAY_ROWS,
                right: "from (select seq, topic, key, headers, payload,",
                wrong: "from (select txid, seq, topic, key, headers, payload,",
            },
            Edit {
                file: RELAY_ROWS,
                right: "from (select seq, topic, key, headers, payload from outbox",
                wrong: "from (select xmin::text::bigint as txid, seq, topic, key, headers, payload from outbox",
            },
            Edit {
                file: RELAY_ROWS,
                right: "where shard = $1 order by seq limit $2",
                wrong: "where shard = $1 and xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                     order by xmin::text::bigint, seq limit $2",
            },
            Edit {
                file: RELAY_ROWS,
                right: "where bytes_before < $3\n         order by seq",
                wrong: "where bytes_before < $3\n         order by txid, seq",
            },
        ],
        killers: &[integration("relay::a_shard_is_sent_by_its_owner_in_the_order_of_its_rows")],
    },
    Mutant {
        name: "relay-without-a-lock",
        wrong: "every replica sends every shard",
        edits: &[Edit {
            file: RELAY,
            right: "    Ok(timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?)",
            wrong: "    let _: bool = timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?;\n    Ok(true)",
        }],
        killers: &[integration("relay::a_shard_is_sent_by_its_owner_in_the_order_of_its_rows")],
    },
    Mutant {
        name: "delete-before-the-acknowledgement",
        wrong: "rows are deleted before Kafka has them",
        edits: &[Edit {
            file: RELAY,
            right: "        while let Some(delivery) = deliveries.pop_front() {",
            wrong: "        delete_rows(connection, self.shard, &rows).await?;
        while let Some(delivery) = deliveries.pop_front() {",
        }],
        killers: &[integration("poison::over_the_limit_of_its_topic")],
    },
    Mutant {
        name: "identity-made-anew",
        wrong: "an event has another `ce_id` each time it is sent",
        edits: &[Edit {
            file: RELAY_PRODUCER,
            right: "            all.insert(Header { key: &header.0, value: header.1.as_deref() })",
            wrong: "            let anew = shared_events::EventId::new().0.into_bytes();
            let value = if header.0 == \"ce_id\" { Some(anew.as_slice()) } else { header.1.as_deref() };
            all.insert(Header { key: &header.0, value })",
        }],
        killers: &[integration("relay::what_is_sent_again_is_the_same")],
    },
    Mutant {
        name: "events-in-another-order",
        wrong: "one transaction's events are numbered from the last to the first",
        edits: &[Edit { file: OUTBOX, right: "order by place\"", wrong: "order by place desc\"" }],
        killers: &[integration("ledgers::are_unbroken_under_load")],
    },
    Mutant {
        name: "no-compare-and-set",
        wrong: "the position is moved wherever it stands",
        edits: &[Edit {
            file: OFFSET,
            right: "and partition = $3 and next = $4\"",
            wrong: "and partition = $3 and $4::bigint is not null\"",
        }],
        killers: &[integration("positions::an_owner_who_lost_it_writes_nothing")],
    },
    Mutant {
        name: "position-expected-at-the-record",
        wrong: "the position is expected where the record stands, not where it was last",
        edits: &[Edit {
            file: PARTITION,
            right: "partition, self.next, &target)",
            wrong: "partition, batch[0].record.offset, &target)",
        }],
        killers: &[integration("poison::behind_the_markers_of_transactions")],
    },
    Mutant {
        name: "position-before-the-effects",
        wrong: "the position is moved outside the transaction, just before its commit",
        edits: &[
            Edit {
                file: PARTITION,
                right: "            let (topic, partition) = (&shared.topic, self.partition);\n",
                wrong: "            let (topic, partition) = (&shared.topic, self.partition);
            let mut elsewhere = shared.pool.acquire().await?;\n",
            },
            Edit { file: PARTITION, right: "offset::advance(&mut transaction,", wrong: "offset::advance(&mut elsewhere," },
        ],
        killers: &[integration("together::what_a_batch_writes")],
    },
    Mutant {
        name: "position-after-the-effects",
        wrong: "the position is moved outside the transaction, after its commit",
        edits: &[
            Edit {
                file: PARTITION,
                right: "            let (topic, partition) = (&shared.topic, self.partition);\n",
                wrong: "            let (topic, partition) = (&shared.topic, self.partition);
            let unmoved = Position { next: self.next, last_record: self.unverified_record.clone() };\n",
            },
            Edit { file: PARTITION, right: "partition, self.next, &target)", wrong: "partition, self.next, &unmoved)" },
            Edit {
                file: PARTITION,
                right: "            Ok(effects)\n        };",
                wrong: "            let mut elsewhere = shared.pool.acquire().await?;
            offset::advance(&mut elsewhere, shared.consumer, topic, partition, self.next, &target).await?;
            Ok(effects)\n        };",
            },
        ],
        killers: &[integration("positions::two_owners_of_everything")],
    },
    Mutant {
        name: "dead-letter-outside-the-transaction",
        wrong: "a dead letter is written by itself, before the position moves",
        edits: &[
            Edit {
                file: PARTITION,
                right: "            let dead_letters = sorted.dead_letter_rows(&shared);\n",
                wrong: "            let mut elsewhere = shared.pool.acquire().await?;
            let dead_letters = sorted.dead_letter_rows(&shared);\n",
            },
            Edit {
                file: PARTITION,
                right: "outbox::insert(&mut transaction, &dead_letters)",
                wrong: "outbox::insert(&mut elsewhere, &dead_letters)",
            },
        ],
        killers: &[integration("together::what_a_batch_writes")],
    },
    Mutant {
        name: "poison-for-ever",
        wrong: "a record that can't be applied is tried again for ever",
        edits: &[Edit {
            file: PARTITION,
            right: "Attempt::Retry => Attempt::DeadLetter(reason),",
            wrong: "Attempt::Retry => Attempt::Retry,",
        }],
        killers: &[integration("poison::within_a_batch")],
    },
    Mutant {
        name: "poison-not-isolated",
        wrong: "good records are buried with the poisoned one of their batch",
        edits: &[Edit {
            file: PARTITION,
            right: "Err(Fault::Poison(_)) => push_halves(&mut ranges, range),",
            wrong: "Err(Fault::Poison(reason)) => ranges.push_front((range, Attempt::DeadLetter(reason))),",
        }],
        killers: &[integration("poison::within_a_batch")],
    },
    Mutant {
        name: "last-record-not-verified",
        wrong: "a log that was made anew is read on, as if it were the old one",
        edits: &[
            Edit { file: PARTITION, right: "            unverified_record: position.last_record,", wrong: "            unverified_record: None," },
            Edit { file: PARTITION, right: "        self.unverified_record = position.last_record;", wrong: "        self.unverified_record = None;" },
        ],
        killers: &[integration("recreated::a_log_made_anew_is_held")],
    },
    Mutant {
        name: "generations-ignored",
        wrong: "what was received for an assignment that has ended is applied",
        edits: &[Edit {
            file: ASSIGNMENT,
            right: "        if let Some(assigned) = self.partitions().remove(&partition) {
            assigned.queue.close();
        }",
            wrong: "        self.partitions().remove(&partition);",
        }],
        killers: &[unit("service-kit")],
    },
    Mutant {
        name: "deadlock-is-poison",
        wrong: "a record is buried for a deadlock",
        edits: &[
            Edit { file: FAULT, right: "(\"22\" | \"23\" | \"54\", _)", wrong: "(\"22\" | \"23\" | \"40\" | \"54\", _)" },
            Edit { file: FAULT, right: "(\"08\" | \"40\" | \"53\"", wrong: "(\"08\" | \"53\"" },
        ],
        killers: &[unit("service-kit")],
    },
    Mutant {
        name: "key-taken-twice",
        wrong: "of two calls that find a key free, both have an effect",
        edits: &[Edit {
            file: IDEMPOTENCY,
            right: "if saved == new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }",
            wrong: "if saved <= new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }",
        }],
        killers: &[integration("idempotency::both_replicas_past_the_look")],
    },
    Mutant {
        name: "only-on-its-own-schema",
        wrong: "a release does not start where a newer one has migrated",
        edits: &[Edit {
            file: DATABASE,
            right: "migrator.set_ignore_missing(true);",
            wrong: "migrator.set_ignore_missing(false);",
        }],
        killers: &[integration("older::starts_after_a_newer_one_has_migrated")],
    },
];
