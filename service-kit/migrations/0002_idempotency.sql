-- What accepted calls were answered, under the key that their client gave them (Idempotency-Key): written
-- in the transaction of the effect, so that there is one exactly if there is the other.
create table idempotency (
    -- The resource's path, and whose it is. Keys of two scopes have nothing to do with one another.
    scope text collate "C" not null,
    key text collate "C" not null,
    -- SHA-256 of the call as it was understood: tells a repeat from another call.
    fingerprint bytea not null,
    status smallint not null,
    -- JSON: [["name", "value"], ...]
    headers text not null,
    body bytea not null,
    -- Set and compared by this database's clock. A row past it is as good as gone.
    expires_at timestamptz not null,
    constraint idempotency_pkey primary key (scope, key)
);

create index idempotency_expires_at on idempotency (expires_at);
