-- What every service that takes part in the saga keeps beside its own tables.

-- Events that are not sent yet. A relay reads a shard in the order of seq, sends, and deletes what is
-- acknowledged. There is no cursor: a row that commits late with a lower seq is simply read later.
create table outbox (
    seq bigint generated always as identity (cache 1),
    shard smallint not null,
    topic text not null,
    key bytea,
    -- JSON: [["name", "text" | [bytes] | null], ...], in the record's order
    headers text not null,
    payload bytea,
    created_at timestamptz not null default clock_timestamp(),
    constraint outbox_pkey primary key (shard, seq)
)
with (
    -- The table is short and its rows die at once: what a scale factor of the table would wait for
    -- is in the way of every read of the relay.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

-- Where each consumer stands, moved in the transaction of the effects: that is what makes them happen
-- exactly once. last_record identifies the record before next, to notice a log that was made anew.
create table consumer_offset (
    consumer text not null,
    topic text not null,
    partition integer not null,
    next bigint not null,
    last_record text,
    constraint consumer_offset_pkey primary key (consumer, topic, partition),
    constraint consumer_offset_next_check check (next >= 0)
)
with (fillfactor = 50);
