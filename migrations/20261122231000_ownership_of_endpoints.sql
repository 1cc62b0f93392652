-- An endpoint registered with a partner's key is sent nothing but a challenge until somebody who received it says so: or anyone
-- could have our events posted to an address of somebody else's.
alter table webhook_endpoints
    add column challenge text check (length(challenge) between 20 and 100),
    drop constraint webhook_endpoints_state_check,
    add constraint webhook_endpoints_state_check check (state in ('active', 'disabled', 'unconfirmed')),
    add constraint what_is_unconfirmed_has_a_challenge check (state <> 'unconfirmed' or challenge is not null);
