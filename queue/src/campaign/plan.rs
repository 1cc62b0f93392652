//! What a campaign is to do: selected, tried out on paper, frozen.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};

use super::Error;
use crate::catalogue::{Catalogue, Unreadable};
use crate::job::JobId;
use crate::operate::audit;

/// More letters than this are more than one campaign.
const LETTERS_MAX: i64 = 1_000_000;

/// How many letters are read and checked at a time.
const PAGE: i64 = 1000;

/// How many letters stand for all in a preview, and in the error that lists what cannot be read.
const SAMPLE: usize = 10;

/// A payload is no larger than this, as PostgreSQL stores it: a constraint of the table of jobs.
const ARGS_BYTES_MAX: i32 = 65_536;

/// Which dead letters; what is not said does not matter, but something must be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Selection {
    /// Of these causes; of any when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// Of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of this class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_class: Option<String>,
    /// With this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// This one and younger ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<JobId>,
    /// This one and older ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<JobId>,
}

/// What a campaign is to do, and how carefully.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which letters.
    pub selection: Selection,
    /// A merge patch (RFC 7386) of their payloads.
    pub patch: Option<Value>,
    /// Leaves out letters whose payload this build cannot read, instead of refusing them all.
    pub skip_unreadable: bool,
    /// How many letters of each cause are tried first, from 1 to 1000.
    pub canary: i32,
    /// A larger share of dead ones halts a cause; from 0 to under 1.
    pub failure_share: f64,
    /// After the canary: of how many jobs, the last that ended, from 1 to 10,000.
    pub failure_window: i32,
    /// How many letters are redriven a second, at most; from 0.01 to 10,000.
    pub per_second: f64,
    /// How many of its jobs there are at once, at most; from 1 to 10,000.
    pub in_flight_max: i32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            patch: None,
            skip_unreadable: false,
            canary: 10,
            failure_share: 0.1,
            failure_window: 100,
            per_second: 100.0,
            in_flight_max: 500,
        }
    }
}

impl Plan {
    /// Whether it makes sense, apart from what there is to redrive.
    fn check(&self) -> Result<(), Error> {
        let selection = &self.selection;
        let says_nothing = selection.causes.is_empty()
            && [
                &selection.kind,
                &selection.queue,
                &selection.error_class,
                &selection.error_code,
            ]
            .iter()
            .all(|filter| filter.is_none())
            && selection.from.is_none()
            && selection.to.is_none();
        let complaint = if says_nothing {
            "select by cause, kind, queue, error class, error code or ids; all of them at once is too much"
        } else if self.patch.as_ref().is_some_and(|patch| !patch.is_object()) {
            "the patch must be an object: a merge patch of the payload"
        } else if !(1..=1000).contains(&self.canary) {
            "the canary must be from 1 to 1000"
        } else if !(0.0..1.0).contains(&self.failure_share) {
            "the failure share must be from 0 to under 1"
        } else if !(1..=10_000).contains(&self.failure_window) {
            "the failure window must be from 1 to 10000"
        } else if !(0.01..=10_000.0).contains(&self.per_second) {
            "the pace must be from 0.01 to 10000 a second"
        } else if !(1..=10_000).contains(&self.in_flight_max) {
            "the jobs in flight must be from 1 to 10000"
        } else {
            return Ok(());
        };
        Err(Error::Invalid(complaint.to_owned()))
    }
}

/// A letter whose payload this build cannot read, after the patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableLetter {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// Where, and what is wrong.
    #[serde(flatten)]
    pub why: Unreadable,
}

/// What a campaign would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Preview {
    /// How many letters are selected.
    pub letters: i64,
    /// How many of their payloads this build cannot read, after the patch.
    pub unreadable: i64,
    /// The first of those.
    pub unreadable_sample: Vec<UnreadableLetter>,
    /// How many payloads the patch changes.
    pub changed: i64,
    /// The first of those, field by field.
    pub changes: Vec<LetterChange>,
    /// How many will be skipped because another job has their unique key.
    pub keys_taken: i64,
    /// The first of those.
    pub keys_taken_sample: Vec<KeyTaken>,
    /// How many groups they belong to.
    pub groups: i64,
    /// The first of those.
    pub groups_sample: Vec<String>,
    /// Their causes, the largest first.
    pub causes: Vec<CauseCount>,
    /// How long it takes at its pace, at least: canaries are waited for.
    pub seconds_min: f64,
}

/// What the patch does to one payload.
#[derive(Clone, Debug, Serialize)]
pub struct LetterChange {
    /// The job.
    pub id: JobId,
    /// Its fields that change.
    pub fields: Vec<FieldChange>,
}

/// A field before and after; none where it is not there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// Where, as `address.city`.
    pub path: String,
    /// Its value now.
    pub before: Option<Value>,
    /// Its value then.
    pub after: Option<Value>,
}

/// A letter whose unique key another has.
#[derive(Clone, Debug, Serialize)]
pub struct KeyTaken {
    /// The job that cannot return.
    pub id: JobId,
    /// The key.
    pub key: String,
    /// Who has it: a job, or an older letter of the same campaign.
    pub by: JobId,
}

/// How many letters have one cause.
#[derive(Clone, Debug, Serialize)]
pub struct CauseCount {
    /// The cause.
    pub cause: String,
    /// Of which kind of job.
    pub kind: String,
    /// The class of the failure.
    pub error_class: String,
    /// Its code.
    pub error_code: String,
    /// What its messages have in common.
    pub pattern: String,
    /// How many.
    pub letters: i64,
}

/// Says what a campaign would do, and changes nothing.
pub async fn preview<S: Send + Sync + 'static>(
    conn: &mut PgConnection,
    catalogue: &Catalogue<S>,
    plan: &Plan,
) -> Result<Preview, Error> {
    plan.check()?;
    let mut preview = Preview::default();
    let mut pages = Pages::new(conn, plan).await?;
    while let Some(letters) = pages.next(conn, catalogue, plan).await? {
        for letter in &letters {
            match &letter.unreadable {
                Some(why) => {
                    preview.unreadable += 1;
                    if preview.unreadable_sample.len() < SAMPLE {
                        preview.unreadable_sample.push(letter.complaint(why));
                    }
                }
                None if letter.patched.is_some() => {
                    preview.changed += 1;
                    if preview.changes.len() < SAMPLE {
                        preview.changes.push(letter.change());
                    }
                }
                None => {}
            }
        }
    }
    preview.letters = pages.seen;
    preview.causes = pages.causes.into_values().collect();
    preview
        .causes
        .sort_by(|a, b| b.letters.cmp(&a.letters).then_with(|| a.cause.cmp(&b.cause)));
    preview.seconds_min = (preview.letters - preview.unreadable) as f64 / plan.per_second;
    look_around(conn, plan, pages.last, &mut preview).await?;
    Ok(preview)
}

/// What the rest of the queue has to do with the selection: keys that are taken, groups.
async fn look_around(conn: &mut PgConnection, plan: &Plan, last: i64, preview: &mut Preview) -> sqlx::Result<()> {
    let selection = &plan.selection;
    let around = sqlx::query!(
        r#"with selected as materialized (
               select id, kind, unique_key, group_key
               from queue.dead_letters
               where ($1::text[] = '{}' or cause = any($1))
                 and ($2::text is null or kind = $2)
                 and ($3::text is null or queue = $3)
                 and ($4::text is null or error_class = $4)
                 and ($5::text is null or error_code = $5)
                 and id >= $6 and id <= $7
                 and (unique_key is not null or group_key is not null)
           ), taken as (
               select s.id, s.unique_key as key, o.by
               from (select *, min(id) over (partition by kind, unique_key) as oldest from selected
                     where unique_key is not null) s
               left join queue.unique_keys u on u.kind = s.kind and u.key = s.unique_key
               cross join lateral (select coalesce(u.job_id, s.oldest) as by) o
               where o.by <> s.id
           )
           select (select count(*) from taken) as "keys_taken!",
                  array(select id from taken order by id limit $8) as "ids!",
                  array(select key from taken order by id limit $8) as "keys!",
                  array(select by from taken order by id limit $8) as "by!",
                  (select count(distinct group_key) from selected) as "groups!",
                  array(select distinct group_key from selected where group_key is not null order by 1 limit $8) as "names!""#,
        &selection.causes,
        selection.kind,
        selection.queue,
        selection.error_class,
        selection.error_code,
        selection.from.map_or(0, |from| from.0),
        last,
        SAMPLE as i64,
    )
    .fetch_one(conn)
    .await?;
    preview.keys_taken = around.keys_taken;
    preview.keys_taken_sample = around
        .ids
        .into_iter()
        .zip(around.keys)
        .zip(around.by)
        .map(|((id, key), by)| KeyTaken {
            id: JobId(id),
            key,
            by: JobId(by),
        })
        .collect();
    preview.groups = around.groups;
    preview.groups_sample = around.names;
    Ok(())
}

/// Freezes the selection and starts: from now on the workers carry it on. Returns the campaign's number.
pub async fn start<S: Send + Sync + 'static>(
    conn: &mut PgConnection,
    catalogue: &Catalogue<S>,
    plan: &Plan,
    actor: &str,
    reason: &str,
) -> Result<i64, Error> {
    plan.check()?;
    let mut tx = conn.begin().await?;
    match write(&mut tx, catalogue, plan, actor, reason).await {
        Ok(id) => {
            tx.commit().await?;
            Ok(id)
        }
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

async fn write<S: Send + Sync + 'static>(
    conn: &mut PgConnection,
    catalogue: &Catalogue<S>,
    plan: &Plan,
    actor: &str,
    reason: &str,
) -> Result<i64, Error> {
    let id = sqlx::query_scalar!(
        "insert into queue.campaigns (actor, reason, selection, patch, canary, failure_share, failure_window, per_second,
                                      in_flight_max)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         returning id",
        actor,
        reason,
        json!(plan.selection),
        plan.patch,
        plan.canary,
        plan.failure_share,
        plan.failure_window,
        plan.per_second,
        plan.in_flight_max,
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut unreadable = 0;
    let mut first = Vec::new();
    let mut pages = Pages::new(&mut *conn, plan).await?;
    while let Some(letters) = pages.next(&mut *conn, catalogue, plan).await? {
        for letter in &letters {
            if let Some(why) = &letter.unreadable {
                unreadable += 1;
                if first.len() < SAMPLE {
                    first.push(letter.complaint(why));
                }
            }
        }
        freeze(&mut *conn, id, letters).await?;
    }
    if pages.seen == 0 {
        return Err(Error::Empty);
    }
    if unreadable > 0 && (!plan.skip_unreadable || unreadable == pages.seen) {
        return Err(Error::Unreadable {
            count: unreadable,
            first,
        });
    }
    count(&mut *conn, id, plan.canary, pages.causes).await?;
    let detail = json!({ "reason": reason, "selection": plan.selection, "patch": plan.patch, "letters": pages.seen });
    audit(conn, actor, "start", &format!("campaign {id}"), detail).await?;
    Ok(id)
}

async fn freeze(conn: &mut PgConnection, id: i64, letters: Vec<Letter>) -> sqlx::Result<()> {
    let mut jobs = Vec::with_capacity(letters.len());
    let mut causes = Vec::with_capacity(letters.len());
    let mut groups = Vec::with_capacity(letters.len());
    let mut fences = Vec::with_capacity(letters.len());
    let mut before = Vec::with_capacity(letters.len());
    let mut after = Vec::with_capacity(letters.len());
    let mut skipped = Vec::with_capacity(letters.len());
    for letter in letters {
        jobs.push(letter.id.0);
        causes.push(letter.cause);
        groups.push(letter.group_key);
        fences.push(letter.fence);
        before.push(letter.patched.is_some().then_some(letter.args));
        after.push(letter.patched);
        skipped.push(
            letter
                .unreadable
                .map(|why| format!("its payload cannot be read: at {}: {}", why.path, why.error)),
        );
    }
    sqlx::query!(
        "insert into queue.campaign_letters (campaign_id, job_id, cause, group_key, fence, args_before, args, state, skipped_because)
         select $1, job_id, cause, group_key, fence, args_before, args,
                case when skipped_because is null then 'waiting' else 'skipped' end, skipped_because
         from unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::jsonb[], $7::jsonb[], $8::text[])
              l (job_id, cause, group_key, fence, args_before, args, skipped_because)",
        id,
        &jobs,
        &causes,
        &groups as &[Option<String>],
        &fences,
        &before as &[Option<Value>],
        &after as &[Option<Value>],
        &skipped as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the causes with their counts.
async fn count(
    conn: &mut PgConnection,
    id: i64,
    canary: i32,
    causes: BTreeMap<String, CauseCount>,
) -> sqlx::Result<()> {
    let causes: Vec<CauseCount> = causes.into_values().collect();
    let column = |of: fn(&CauseCount) -> &String| causes.iter().map(of).cloned().collect::<Vec<String>>();
    sqlx::query!(
        "insert into queue.campaign_causes (campaign_id, cause, kind, error_class, error_code, pattern, canary_left, waiting, skipped)
         select $1, c.cause, c.kind, c.error_class, c.error_code, c.pattern, $2, l.waiting, l.skipped
         from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) c (cause, kind, error_class, error_code, pattern)
         join (select cause, count(*) filter (where state = 'waiting') as waiting,
                      count(*) filter (where state = 'skipped') as skipped
               from queue.campaign_letters where campaign_id = $1 group by cause) l using (cause)",
        id,
        canary,
        &column(|cause| &cause.cause),
        &column(|cause| &cause.kind),
        &column(|cause| &cause.error_class),
        &column(|cause| &cause.error_code),
        &column(|cause| &cause.pattern),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A selected letter, checked.
struct Letter {
    id: JobId,
    kind: String,
    cause: String,
    group_key: Option<String>,
    fence: i64,
    args: Value,
    /// Where the patch changes something.
    patched: Option<Value>,
    unreadable: Option<Unreadable>,
}

impl Letter {
    fn complaint(&self, why: &Unreadable) -> UnreadableLetter {
        UnreadableLetter {
            id: self.id,
            kind: self.kind.clone(),
            why: why.clone(),
        }
    }

    fn change(&self) -> LetterChange {
        let mut fields = Vec::new();
        if let Some(patched) = &self.patched {
            differences("", Some(&self.args), Some(patched), &mut fields);
        }
        LetterChange { id: self.id, fields }
    }
}

/// Goes through the selected letters page by page, oldest first, up to the youngest there was at the beginning.
struct Pages {
    after: i64,
    last: i64,
    seen: i64,
    causes: BTreeMap<String, CauseCount>,
}

impl Pages {
    async fn new(conn: &mut PgConnection, plan: &Plan) -> sqlx::Result<Self> {
        let youngest = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from queue.dead_letters"#)
            .fetch_one(conn)
            .await?;
        Ok(Self {
            after: plan.selection.from.map_or(0, |from| from.0.saturating_sub(1)),
            last: plan.selection.to.map_or(youngest, |to| to.0.min(youngest)),
            seen: 0,
            causes: BTreeMap::new(),
        })
    }

    async fn next<S: Send + Sync + 'static>(
        &mut self,
        conn: &mut PgConnection,
        catalogue: &Catalogue<S>,
        plan: &Plan,
    ) -> Result<Option<Vec<Letter>>, Error> {
        let selection = &plan.selection;
        let rows = sqlx::query!(
            r#"select id as "id: JobId", kind, args_version, args, fence, group_key, cause as "cause!", error_class, error_code,
                      pattern as "pattern!"
               from queue.dead_letters
               where ($1::text[] = '{}' or cause = any($1))
                 and ($2::text is null or kind = $2)
                 and ($3::text is null or queue = $3)
                 and ($4::text is null or error_class = $4)
                 and ($5::text is null or error_code = $5)
                 and id > $6 and id <= $7
               order by id
               limit $8"#,
            &selection.causes,
            selection.kind,
            selection.queue,
            selection.error_class,
            selection.error_code,
            self.after,
            self.last,
            PAGE,
        )
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        self.after = last.id.0;
        self.seen += rows.len() as i64;
        if self.seen > LETTERS_MAX {
            return Err(Error::Invalid(format!(
                "more than {LETTERS_MAX} dead letters match: narrow the selection"
            )));
        }
        let mut letters = Vec::with_capacity(rows.len());
        for row in rows {
            let patched = plan
                .patch
                .as_ref()
                .map(|patch| merged(row.args.clone(), patch))
                .filter(|patched| *patched != row.args);
            let checked = catalogue.check(&row.kind, row.args_version, patched.as_ref().unwrap_or(&row.args));
            self.causes
                .entry(row.cause.clone())
                .or_insert_with(|| CauseCount {
                    cause: row.cause.clone(),
                    kind: row.kind.clone(),
                    error_class: row.error_class,
                    error_code: row.error_code,
                    pattern: row.pattern,
                    letters: 0,
                })
                .letters += 1;
            letters.push(Letter {
                id: row.id,
                kind: row.kind,
                cause: row.cause,
                group_key: row.group_key,
                fence: row.fence,
                args: row.args,
                patched,
                unreadable: checked.err(),
            });
        }
        refuse_large(conn, &mut letters).await?;
        Ok(Some(letters))
    }
}

/// A patched payload must fit where payloads are kept; only PostgreSQL knows how large it is there.
async fn refuse_large(conn: &mut PgConnection, letters: &mut [Letter]) -> sqlx::Result<()> {
    let patched: Vec<&Value> = letters.iter().filter_map(|letter| letter.patched.as_ref()).collect();
    if patched.is_empty() {
        return Ok(());
    }
    let sizes = sqlx::query_scalar!(
        r#"select pg_column_size(p.args) as "bytes!" from unnest($1::jsonb[]) with ordinality p (args, place) order by p.place"#,
        &patched as &[&Value],
    )
    .fetch_all(conn)
    .await?;
    let patched = letters.iter_mut().filter(|letter| letter.patched.is_some());
    for (letter, bytes) in patched.zip(sizes) {
        if bytes > ARGS_BYTES_MAX {
            letter.unreadable = Some(Unreadable {
                path: ".".to_owned(),
                error: format!("the payload would have {bytes} bytes, {ARGS_BYTES_MAX} at most"),
            });
        }
    }
    Ok(())
}

/// A merge patch (RFC 7386): objects are merged, null takes a field away, everything else replaces.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(fields) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, change) in fields {
        let before = target.remove(name);
        if !change.is_null() {
            target.insert(name.clone(), merged(before.unwrap_or(Value::Null), change));
        }
    }
    Value::Object(target)
}

/// The fields that differ, objects taken apart.
fn differences(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (before, after) {
        let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            differences(&path, old.get(name), new.get(name), found);
        }
        return;
    }
    found.push(FieldChange {
        path: path.to_owned(),
        before: before.cloned(),
        after: after.cloned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn a_merge_patch_does_what_the_standard_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merged(target.clone(), &patch), result, "{target} patched with {patch}");
        }
    }

    #[test]
    fn a_difference_names_the_field_and_both_values() {
        let mut found = Vec::new();
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}});
        let after = json!({"b": {"c": 4, "d": 3}, "e": null});
        differences("", Some(&before), Some(&after), &mut found);
        let change = |path: &str, before, after| FieldChange {
            path: path.to_owned(),
            before,
            after,
        };
        assert_eq!(
            found,
            [
                change("a", Some(json!(1)), None),
                change("b.c", Some(json!(2)), Some(json!(4))),
                change("e", None, Some(Value::Null)),
            ]
        );
    }
}
