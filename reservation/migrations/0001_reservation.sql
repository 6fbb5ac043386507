-- Reservations and where they stand. Status only moves forward.
create table reservation (
    seq bigint generated always as identity,
    id uuid not null,
    user_id text not null,
    user_name text not null,
    email text,
    movie_id uuid not null,
    -- Known once the movie has answered.
    movie_name text,
    count bigint not null,
    date text not null,
    -- Whether the customer named the date, to recognise the same call when it is made again.
    date_given boolean not null,
    status text not null,
    reason text,
    placed_at timestamptz not null,
    -- Set and compared by this database's clock.
    deadline timestamptz not null,
    -- The saga's trace, for what happens without a request: the deadline, and a cancellation later on.
    traceparent text,
    constraint reservation_pkey primary key (id),
    constraint reservation_seq_key unique (seq),
    constraint reservation_count_check check (count >= 1),
    constraint reservation_status_check check (status in ('PENDING', 'CONFIRMED', 'CANCELLED')),
    constraint reservation_reason_check check (
        (status = 'CANCELLED') = (reason is not null)
        and (reason is null or reason in ('OUT_OF_STOCK', 'MOVIE_NOT_FOUND', 'CUSTOMER', 'DEADLINE'))
    )
)
with (fillfactor = 80);

create index reservation_user_id_seq on reservation (user_id, seq desc);

-- For the sweeper and for admission: only what is still undecided.
create index reservation_pending_deadline on reservation (deadline) where status = 'PENDING';
