//! Writes and reads many rows at once. The text of a statement does not depend on the number of
//! rows.
//!
//! PostgreSQL parses and plans every text that is new to it. With a placeholder per value, each
//! number of rows would be a new text with thousands of parameters. So on PostgreSQL a column is
//! one array. The other databases would gain nothing by that.

use sea_orm::sea_query::{ArrayType, Expr};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityName as _,
    EntityTrait, IdenStatic as _, IntoActiveModel, Iterable as _, Statement, Value,
};
use uuid::Uuid;

/// Rows per insert. A statement can have 65,535 parameters on MariaDB, and 32,766 on SQLite.
pub(crate) const ROWS_PER_INSERT: usize = 1000;
/// Bytes per insert, about. By default, a statement can have 16 MiB on MariaDB.
const BYTES_PER_INSERT: usize = 4 * 1024 * 1024;

/// Inserts rows with all columns set. `bytes` estimates the size of a row's texts.
pub(crate) async fn insert<A>(
    db: &impl ConnectionTrait,
    rows: Vec<A>,
    bytes: impl Fn(&A) -> usize,
) -> Result<(), DbErr>
where
    A: ActiveModelTrait,
    <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
{
    let lengths: Vec<_> = chunks(&rows, bytes).map(<[_]>::len).collect();
    let mut rows = rows.into_iter();
    for length in lengths {
        let chunk: Vec<_> = rows.by_ref().take(length).collect();
        if db.get_database_backend() == DbBackend::Postgres {
            db.execute_raw(from_arrays(chunk)?).await?;
        } else {
            A::Entity::insert_many(chunk).exec_without_returning(db).await?;
        }
    }
    Ok(())
}

/// Updates columns of many rows, a thousand per statement. Each of `rows` has the values of `keys`,
/// then those of `sets`; none is null. A row is updated if it matches *all* keys. A key may
/// therefore be an expected value, which makes this a compare-and-set. Returns the number of rows
/// that matched.
pub(crate) async fn update<E: EntityTrait>(
    db: &impl ConnectionTrait,
    keys: &[E::Column],
    sets: &[E::Column],
    rows: Vec<Vec<Value>>,
) -> Result<u64, DbErr> {
    let mut found = 0;
    for chunk in rows.chunks(ROWS_PER_INSERT) {
        found +=
            db.execute_raw(joined::<E>(db.get_database_backend(), keys, sets, chunk)?).await?.rows_affected();
    }
    Ok(found)
}

/// The rows that have these keys, a thousand per statement. Each of `rows` has the values of
/// `keys`. None of them is null.
pub(crate) async fn find<E: EntityTrait>(
    db: &impl ConnectionTrait,
    keys: &[E::Column],
    rows: Vec<Vec<Value>>,
) -> Result<Vec<E::Model>, DbErr> {
    let (backend, table) = (db.get_database_backend(), E::default());
    let table = quoted(backend, table.table_name());
    let mut found = Vec::new();
    for chunk in rows.chunks(ROWS_PER_INSERT) {
        let (given, values) = given(backend, chunk)?;
        // Name the columns: a prepared statement with `*` fails after a migration adds a column.
        let columns = E::Column::iter().map(|column| format!("{table}.{}", quoted(backend, column.as_str())));
        let (columns, has) = (columns.collect::<Vec<_>>().join(", "), has::<E>(backend, keys));
        let sql = format!("select {columns} from {given} join {table} on {has}");
        let statement = Statement::from_sql_and_values(backend, sql, values);
        found.extend(E::find().from_raw_sql(statement).all(db).await?);
    }
    Ok(found)
}

/// The highest number in the column `of` for each of these `ids` in the column `key`. Ids without a
/// row are left out.
///
/// It reads the end of an index for each id. Grouping would read all rows, and stale statistics
/// would hide how many there are.
pub(crate) async fn highest<E: EntityTrait>(
    db: &impl ConnectionTrait,
    key: E::Column,
    ids: Vec<Uuid>,
    of: E::Column,
) -> Result<Vec<(Uuid, i64)>, DbErr> {
    let (backend, table) = (db.get_database_backend(), E::default());
    let table = quoted(backend, table.table_name());
    let of = quoted(backend, of.as_str());
    let mut found = Vec::new();
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        let rows: Vec<_> = chunk.iter().map(|id| vec![Value::from(*id)]).collect();
        let (given, values) = given(backend, &rows)?;
        let has = has::<E>(backend, &[key]);
        let sql = format!("select given.c0, (select max({of}) from {table} where {has}) from {given}");
        for row in db.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await? {
            let (id, highest) = (row.try_get_by_index(0)?, row.try_get_by_index::<Option<i64>>(1)?);
            found.extend(highest.map(|highest| (id, highest)));
        }
    }
    Ok(found)
}

/// `update t set a = given.c1 from … as given where t.id = given.c0`, and so on. (A `case` with an
/// arm per row would be compared arm by arm for each row.)
fn joined<E: EntityTrait>(
    backend: DbBackend,
    keys: &[E::Column],
    sets: &[E::Column],
    rows: &[Vec<Value>],
) -> Result<Statement, DbErr> {
    let is_mariadb = backend == DbBackend::MySql;
    let table = E::default();
    let table = quoted(backend, table.table_name());
    let (given, values) = given(backend, rows)?;
    let set = sets.iter().enumerate().map(|(at, column)| {
        let column = quoted(backend, column.as_str());
        // The others accept no table name before a set column.
        let column = if is_mariadb { format!("{table}.{column}") } else { column };
        format!("{column} = given.c{}", keys.len() + at)
    });
    let (set, has) = (set.collect::<Vec<_>>().join(", "), has::<E>(backend, keys));
    let sql = if is_mariadb {
        format!("update {table} join {given} on {has} set {set}")
    } else {
        format!("update {table} set {set} from {given} where {has}")
    };
    Ok(Statement::from_sql_and_values(backend, sql, values))
}

/// A table `given` with these rows and the columns `c0`, `c1` and so on. Statements join it with
/// another table. Also returns its values.
fn given(backend: DbBackend, rows: &[Vec<Value>]) -> Result<(String, Vec<Value>), DbErr> {
    let width = rows.first().map_or(0, Vec::len);
    let name = |at: usize| format!("c{at}");
    if backend == DbBackend::Postgres {
        let (mut arrays, mut values) = (Vec::new(), Vec::new());
        for at in 0..width {
            let cells: Vec<_> = rows.iter().map(|row| row[at].clone()).collect();
            let kind = cells[0].array_type();
            arrays.push(format!("${}::{}[]", at + 1, type_name(&kind)?));
            values.push(Value::Array(kind, Some(Box::new(cells))));
        }
        let names: Vec<_> = (0..width).map(name).collect();
        Ok((format!("unnest({}) as given ({})", arrays.join(", "), names.join(", ")), values))
    } else {
        // The first row names the columns, because MariaDB accepts no list of columns after the
        // table's name.
        let first = (0..width).map(|at| format!("{} as {}", placeholder(backend, rows, at), name(at)));
        let first: Vec<_> = first.collect();
        let row = format!("({})", vec!["?"; width].join(", "));
        let rest = vec![row; rows.len() - 1].join(", ");
        let rest = if rest.is_empty() { rest } else { format!(" union all values {rest}") };
        Ok((format!("(select {}{rest}) as given", first.join(", ")), rows.concat()))
    }
}

/// The placeholder of a column in the first row. MariaDB takes a text there for the longest of its
/// column, and refuses longer ones. So the placeholder states the longest length. It is rounded up
/// to a power of two, so that there are few different statements.
fn placeholder(backend: DbBackend, rows: &[Vec<Value>], at: usize) -> String {
    let lengths = rows.iter().filter_map(|row| match &row[at] {
        Value::String(Some(text)) => Some(text.chars().count()),
        _ => None,
    });
    match lengths.max() {
        Some(longest) if backend == DbBackend::MySql => {
            format!("cast(? as char({}))", longest.max(1).next_power_of_two())
        }
        _ => "?".to_owned(),
    }
}

/// The condition that a row has the keys of a given row.
fn has<E: EntityTrait>(backend: DbBackend, keys: &[E::Column]) -> String {
    let table = E::default();
    let table = quoted(backend, table.table_name());
    let is = |(at, column): (usize, &E::Column)| {
        format!("{table}.{} = given.c{at}", quoted(backend, column.as_str()))
    };
    keys.iter().enumerate().map(is).collect::<Vec<_>>().join(" and ")
}

fn quoted(backend: DbBackend, name: &str) -> String {
    if backend == DbBackend::MySql { format!("`{name}`") } else { format!("\"{name}\"") }
}

/// The condition that `column` is one of these ids.
pub(crate) fn is_one_of<C: ColumnTrait>(
    db: &impl ConnectionTrait,
    column: C,
    ids: impl IntoIterator<Item = Uuid>,
) -> Expr {
    if db.get_database_backend() == DbBackend::Postgres { column.eq_any(ids) } else { column.is_in(ids) }
}

/// Splits rows into inserts, in order. A row above the size limit gets an insert of its own.
pub(crate) fn chunks<T>(mut rows: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut total = 0;
        let fits = |row: &&T| {
            total += bytes(row);
            total <= BYTES_PER_INSERT
        };
        let count = rows.iter().take(ROWS_PER_INSERT).take_while(fits).count();
        let (chunk, rest) = rows.split_at(count.max(1).min(rows.len()));
        rows = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// `insert into t (a, b) select a, case when b0 then null else b end from unnest($1::uuid[],
/// $2::text[], $3::bool[]) …`. sea-query's arrays hold no nulls. So each nullable column has a
/// second array, which says where it is null.
fn from_arrays<A: ActiveModelTrait>(mut rows: Vec<A>) -> Result<Statement, DbErr> {
    let mut values = Vec::new();
    let (mut names, mut chosen, mut arrays, mut aliases) = (vec![], vec![], vec![], vec![]);
    let mut array = |alias: String, kind: ArrayType, cells: Vec<Value>| {
        values.push(Value::Array(kind.clone(), Some(Box::new(cells))));
        arrays.push(format!("${}::{}[]", values.len(), type_name(&kind)?));
        aliases.push(alias);
        Ok::<_, DbErr>(())
    };
    for column in <A::Entity as EntityTrait>::Column::iter() {
        let name = column.as_str();
        let cells = rows.iter_mut().map(|row| match row.take(column) {
            ActiveValue::Set(value) | ActiveValue::Unchanged(value) => Ok(value),
            ActiveValue::NotSet => Err(DbErr::Type(format!("column {name} of a new row is not set"))),
        });
        let mut cells = cells.collect::<Result<Vec<_>, _>>()?;
        let Some(kind) = cells.first().map(Value::array_type) else { continue };
        let is_null: Vec<_> = cells.iter().map(|cell| *cell == cell.as_null()).collect();
        for cell in cells.iter_mut().zip(&is_null).filter_map(|(cell, is_null)| is_null.then_some(cell)) {
            *cell = cell.dummy_value();
        }
        array(format!("\"{name}\""), kind, cells)?;
        if column.def().is_null() {
            array(format!("\"{name}?\""), ArrayType::Bool, is_null.into_iter().map(Into::into).collect())?;
            chosen.push(format!("case when \"{name}?\" then null else \"{name}\" end"));
        } else {
            chosen.push(format!("\"{name}\""));
        }
        names.push(format!("\"{name}\""));
    }
    let sql = format!(
        "insert into \"{}\" ({}) select {} from unnest({}) as rows ({})",
        A::Entity::default().table_name(),
        names.join(", "),
        chosen.join(", "),
        arrays.join(", "),
        aliases.join(", "),
    );
    Ok(Statement::from_sql_and_values(DbBackend::Postgres, sql, values))
}

/// PostgreSQL's name of a type.
fn type_name(kind: &ArrayType) -> Result<&'static str, DbErr> {
    Ok(match kind {
        ArrayType::Bool => "bool",
        ArrayType::Int => "int4",
        ArrayType::BigInt => "int8",
        ArrayType::String => "text",
        ArrayType::Bytes => "bytea",
        ArrayType::Uuid => "uuid",
        ArrayType::ChronoDateTimeUtc => "timestamptz",
        other => return Err(DbErr::Type(format!("no column has the type {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mariadb_is_told_how_long_texts_are() {
        let rows: Vec<Vec<Value>> = vec![vec![1.into(), "a".into()], vec![2.into(), "é".repeat(33).into()]];
        for (backend, texts) in [(DbBackend::MySql, "cast(? as char(64))"), (DbBackend::Sqlite, "?")] {
            assert_eq!([0, 1].map(|at| placeholder(backend, &rows, at)), ["?", texts]);
        }
    }

    #[test]
    fn an_insert_has_a_bounded_number_of_rows_and_bytes() {
        let cut = |sizes: &[usize]| chunks(sizes, |size| *size).map(<[_]>::len).collect::<Vec<_>>();
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&vec![0; 2500]), [1000, 1000, 500]);
        let half = BYTES_PER_INSERT / 2;
        assert_eq!(cut(&[half, half, 1, half]), [2, 2]);
        assert_eq!(cut(&[1, BYTES_PER_INSERT * 2, 1]), [1, 1, 1]);
    }
}
