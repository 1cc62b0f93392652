-- A claim does not wait for the disk, so a crash of the server may forget it, and with it that its number was given out: the next
-- claim got the same one, and what a worker still did under the forgotten claim passed as done under the new. A claim is named
-- by chance, of whole numbers that a double holds, and no name comes twice.
alter table queue.claims
    alter column id drop identity,
    alter column id set default floor(random() * 9007199254740992)::bigint;
