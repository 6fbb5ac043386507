-- What is to be sent by e-mail: one row per notification whose customer left an address, if there was a mail server
-- to send it to when it was recorded.
create table email (
    notification_id uuid not null,
    state text not null default 'PENDING',
    -- Begun ones: counted before the mail server is called.
    attempts integer not null default 0,
    -- When it is tried next. While it is being tried: when that attempt counts as lost.
    due_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    sent_at timestamptz,
    -- Why the last attempt failed.
    last_error text,
    constraint email_pkey primary key (notification_id),
    constraint email_notification_id_fkey foreign key (notification_id) references notification (id),
    constraint email_state_check check (state in ('PENDING', 'SENT', 'FAILED')),
    constraint email_attempts_check check (attempts >= 0),
    constraint email_sent_at_check check ((state = 'SENT') = (sent_at is not null)),
    constraint email_last_error_check check (state <> 'FAILED' or last_error is not null)
);

-- What was sent is in neither index: they stay as small as what is left to do.
create index email_pending on email (due_at) where state = 'PENDING';
create index email_failed on email (notification_id) where state = 'FAILED';
