-- The catalogue and its stock. The ledger is kept twice, so that a wrong movement can't be committed.
create table movie (
    seq bigint generated always as identity,
    id uuid not null,
    name text not null,
    description text not null,
    -- What the vendor first published, to recognise the same call when it is made again.
    published_name text not null,
    published_description text not null,
    published bigint not null,
    added bigint not null,
    allocated bigint not null,
    qty bigint not null,
    -- Counts every change; the events carry it.
    version bigint not null,
    -- Counts the vendor's edits only: the ETag.
    edition bigint not null,
    constraint movie_pkey primary key (id),
    constraint movie_seq_key unique (seq),
    constraint movie_qty_check check (qty >= 0),
    constraint movie_ledger_check check (published + added = qty + allocated),
    constraint movie_allocated_check check (allocated >= 0)
)
with (fillfactor = 70);

-- One decision per reservation, rejections and cancellations without a placement included: whatever
-- comes again finds it and changes nothing.
create table decision (
    reservation_id uuid not null,
    movie_id uuid not null,
    outcome text not null,
    count bigint not null,
    constraint decision_pkey primary key (reservation_id),
    constraint decision_outcome_check check (outcome in ('ALLOCATED', 'REJECTED', 'RELEASED', 'VOID')),
    constraint decision_count_check check (count >= 1)
);

create table delivery (
    id uuid not null,
    movie_id uuid not null,
    count bigint not null,
    constraint delivery_pkey primary key (id),
    constraint delivery_movie_id_fkey foreign key (movie_id) references movie (id),
    constraint delivery_count_check check (count >= 1)
);
