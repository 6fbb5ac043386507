-- Files of a movie's reservations that somebody asked for, until they expire. The file itself lies in the folder that
-- the replicas share.
create table export (
    id uuid not null,
    movie_id uuid not null,
    state text not null default 'PENDING',
    -- How often somebody began it. Each has a file of its own, so who has lost the lease harms nobody.
    attempt int not null default 0,
    -- When it may be taken: at once, and while somebody makes it, when that one's lease is over.
    due_at timestamptz not null default now(),
    -- Written so far.
    row_count bigint not null default 0,
    byte_count bigint not null default 0,
    -- Why it failed.
    reason text,
    created_at timestamptz not null default now(),
    -- It is invisible from then on, and deleted a little later.
    expires_at timestamptz not null,
    constraint export_pkey primary key (id),
    constraint export_state_check check (state in ('PENDING', 'RUNNING', 'READY', 'FAILED'))
);

create index export_due on export (due_at) where state in ('PENDING', 'RUNNING');
create index export_expires on export (expires_at);

-- What an export reads, in the order of the log. While it is made nothing is projected: the list is behind for so long.
create index reservation_movie_id_seq on reservation (movie_id, seq);
