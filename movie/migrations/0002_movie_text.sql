-- What a movie is found by. A table of its own: a movie's row is written anew with every batch of sales, and
-- neither carries this along nor touches an index.
create extension if not exists pg_trgm;

create table movie_text (
    seq bigint not null,
    -- Of the texts. A movie with a newer one, or without a row here, gets its row when a service starts; so rows
    -- that are deleted are made anew.
    edition bigint not null,
    -- The name's words as the service sees them: ASCII letters and digits, in lower case, one space between two.
    name text collate "C" not null,
    -- These, and the description's.
    words tsvector not null,
    constraint movie_text_pkey primary key (seq),
    constraint movie_text_seq_fkey foreign key (seq) references movie (seq)
);

create index movie_text_name on movie_text (name, seq);

-- No pending lists: every search would read them, and movies are published more rarely than searched.
create index movie_text_name_similar on movie_text using gin (name gin_trgm_ops) with (fastupdate = off);
create index movie_text_words on movie_text using gin (words) with (fastupdate = off);
