-- Secrets of endpoints and partners may be sealed with a master key that is not in the database:
-- 'sealed:{key}:{ciphertext}', and of a key pair ':{public key}' behind it. What is plain stays so until
-- `orderfleet secrets reseal`, because an older build reads plain ones only.

-- The public halves of those of an endpoint's secrets that have one, newest first. A private key is its seed and then its
-- public key; sealed it has the public key beside it.
create or replace function webhook_public_keys(secrets text[]) returns text[]
language sql immutable as $$
    select coalesce(array_agg(p.key order by s.n), '{}')
    from unnest(secrets) with ordinality s (secret, n)
    cross join lateral (
        select case
                   when s.secret like 'sealed:%' then nullif(split_part(s.secret, ':', 4), '')
                   when s.secret like 'whsk\_%'
                   then 'whpk_' || encode(substring(decode(substr(s.secret, 6), 'base64') from 33), 'base64')
               end as key
    ) p
    where p.key is not null
$$;
