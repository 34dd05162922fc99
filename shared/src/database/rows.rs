//! Many rows at once, in statements whose text does not depend on how many there are.
//!
//! PostgreSQL reads and plans every text that it has not seen. With a placeholder per value, each number of rows is a text
//! of its own and thousands of parameters long; so there a column is one array. The other databases read what they are
//! given in one go and gain nothing by it.

use sea_orm::sea_query::{ArrayType, Expr};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityName as _,
    EntityTrait, IdenStatic as _, IntoActiveModel, Iterable as _, Statement, Value,
};
use uuid::Uuid;

/// Rows per insert: MariaDB takes 65,535 parameters in a statement, SQLite 32,766.
pub(crate) const ROWS_PER_INSERT: usize = 1000;
/// Bytes per insert, about: MariaDB takes 16 MiB in a statement unless it is told otherwise.
const BYTES_PER_INSERT: usize = 4 * 1024 * 1024;

/// Inserts rows, all of whose columns are set. `bytes` is about what a row's texts take.
pub(crate) async fn insert<A>(
    db: &impl ConnectionTrait,
    rows: &[A],
    bytes: impl Fn(&A) -> usize,
) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Clone,
    <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
{
    for chunk in chunks(rows, bytes) {
        if db.get_database_backend() == DbBackend::Postgres {
            db.execute_raw(from_arrays(chunk)?).await?;
        } else {
            A::Entity::insert_many(chunk.to_vec()).exec_without_returning(db).await?;
        }
    }
    Ok(())
}

/// Whether `column` is one of these ids.
pub(crate) fn is_one_of<C: ColumnTrait>(
    db: &impl ConnectionTrait,
    column: C,
    ids: impl IntoIterator<Item = Uuid>,
) -> Expr {
    if db.get_database_backend() == DbBackend::Postgres { column.eq_any(ids) } else { column.is_in(ids) }
}

/// Cuts rows into what goes into one insert, in order. A row that is larger than an insert should be gets one of its own.
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

/// `insert into t (a, b) select a, case when b0 then null else b end from unnest($1::uuid[], $2::text[], $3::bool[]) …`:
/// sea-query's arrays hold no nulls, so beside each column that may be null goes another that says where it is.
fn from_arrays<A: ActiveModelTrait>(rows: &[A]) -> Result<Statement, DbErr> {
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
        let cells = rows.iter().map(|row| match row.get(column) {
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
    fn an_insert_has_a_bounded_number_of_rows_and_bytes() {
        let cut = |sizes: &[usize]| chunks(sizes, |size| *size).map(<[_]>::len).collect::<Vec<_>>();
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&vec![0; 2500]), [1000, 1000, 500]);
        let half = BYTES_PER_INSERT / 2;
        assert_eq!(cut(&[half, half, 1, half]), [2, 2]);
        assert_eq!(cut(&[1, BYTES_PER_INSERT * 2, 1]), [1, 1, 1]);
    }
}
