//! Databases and tables: CREATE, DROP.

use sqlparser::ast::{self, ColumnOption, DataType, ExactNumberInfo};
use twofold_proto::{
    ids::TableId,
    schema::{Column, Index, Table},
    value::Value,
};

use super::{
    Binder, NAME_MAX, TableName,
    expr::Names,
    identifier,
    index::{IndexChange, check_options, index_name, key_of, names_of},
    refuse,
};
use crate::sql::{
    decimal,
    error::{SqlError, codes},
    expression::{Context, Expr, store::store},
    session::OWN_DATABASE,
    types::{COLUMN_DIGITS_MAX, Declared, SqlType},
    value::Datum,
};

/// A change of the catalog.
#[derive(Clone, PartialEq, Debug)]
pub enum Define {
    /// Makes a database.
    CreateDatabase {
        /// Its name.
        name: String,
        /// It may be there.
        if_not_exists: bool,
    },
    /// Removes a database and all its tables.
    DropDatabase {
        /// Its name.
        name: String,
        /// It may be missing.
        if_exists: bool,
    },
    /// Makes a table.
    CreateTable {
        /// The table, as the catalog has it.
        table: Table,
        /// It may be there.
        if_not_exists: bool,
    },
    /// Removes tables.
    DropTables {
        /// Their names.
        names: Vec<TableName>,
        /// They may be missing.
        if_exists: bool,
    },
    /// Changes a table's indexes, one after the other.
    ChangeIndexes {
        /// The table.
        name: TableName,
        /// What is done.
        changes: Vec<IndexChange>,
    },
    /// Removes all rows of a table.
    Truncate(TableName),
}

/// The name of the primary key's index.
pub const PRIMARY: &str = "PRIMARY";
/// Databases that are not to be changed.
const SYSTEM_DATABASES: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

impl Binder<'_> {
    pub(super) fn define(&self, statement: &ast::Statement) -> Result<Define, SqlError> {
        use ast::Statement as Ast;
        match statement {
            Ast::CreateTable(create) => self.create_table(create),
            Ast::CreateDatabase {
                db_name,
                if_not_exists,
                or_replace: false,
                location: None,
                clone: None,
                default_charset,
                default_collation,
                ..
            } => {
                check_charset(default_charset.as_deref())?;
                check_collation(default_collation.as_deref())?;
                self.create_database(identifier(db_name)?, *if_not_exists)
            }
            Ast::CreateSchema {
                schema_name: ast::SchemaName::Simple(name),
                if_not_exists,
                or_replace: false,
                ..
            } => self.create_database(identifier(name)?, *if_not_exists),
            Ast::Drop { object_type, if_exists, names, temporary: false, table: None, .. } => {
                match object_type {
                    ast::ObjectType::Table => {
                        let names = names.iter().map(|name| self.changed(name));
                        Ok(Define::DropTables {
                            names: names.collect::<Result<_, SqlError>>()?,
                            if_exists: *if_exists,
                        })
                    }
                    ast::ObjectType::Database | ast::ObjectType::Schema => {
                        let [name] = &names[..] else { return Err(SqlError::not_supported("such a DROP")) };
                        let name = identifier(name)?;
                        check_changeable(&name)?;
                        if name == OWN_DATABASE {
                            return Err(denied(&name));
                        }
                        Ok(Define::DropDatabase { name, if_exists: *if_exists })
                    }
                    other => Err(SqlError::not_supported(format_args!("DROP {other}"))),
                }
            }
            Ast::CreateIndex(create) => self.create_index(create),
            Ast::AlterTable(alter) => self.alter_table(alter),
            Ast::Drop {
                object_type: ast::ObjectType::Index,
                if_exists: false,
                names,
                temporary: false,
                table: Some(table),
                ..
            } => self.drop_index(names, table),
            Ast::Truncate(truncate) => match &truncate.table_names[..] {
                [one] if truncate.partitions.is_none() => Ok(Define::Truncate(self.changed(&one.name)?)),
                _ => Err(SqlError::not_supported("such a TRUNCATE")),
            },
            other => Err(SqlError::not_supported(first_words(&other.to_string()))),
        }
    }

    fn create_database(&self, name: String, if_not_exists: bool) -> Result<Define, SqlError> {
        check_changeable(&name)?;
        check_name(&name)?;
        if name.contains('.') {
            return Err(SqlError::not_supported(format_args!("a point in the name of database {name}")));
        }
        Ok(Define::CreateDatabase { name, if_not_exists })
    }

    /// The name of a table that is to be made, changed, or to go.
    pub(super) fn changed(&self, name: &ast::ObjectName) -> Result<TableName, SqlError> {
        let name = self.table_name(name)?;
        check_changeable(&name.database)?;
        Ok(name)
    }

    fn create_table(&self, create: &ast::CreateTable) -> Result<Define, SqlError> {
        let name = self.changed(&create.name)?;
        check_name(&name.table)?;
        self.check_rest(create)?;
        let mut columns = Columns::default();
        for definition in &create.columns {
            self.define_column(definition, &mut columns)?;
        }
        for constraint in &create.constraints {
            match constraint {
                ast::TableConstraint::PrimaryKey(key) => columns.add_key(&key.columns)?,
                ast::TableConstraint::Unique(unique) => {
                    check_options(unique.index_type.as_ref(), &unique.index_options)?;
                    let name = unique.index_name.as_ref().or(unique.name.as_ref());
                    columns.indexes.push(Key {
                        name: name.map(|name| name.value.clone()),
                        columns: names_of(&unique.columns)?,
                        unique: true,
                    });
                }
                ast::TableConstraint::Index(index) => {
                    check_options(index.index_type.as_ref(), &index.index_options)?;
                    columns.indexes.push(Key {
                        name: index.name.as_ref().map(|name| name.value.clone()),
                        columns: names_of(&index.columns)?,
                        unique: false,
                    });
                }
                ast::TableConstraint::ForeignKey(_) => return Err(SqlError::not_supported("FOREIGN KEY")),
                ast::TableConstraint::Check(_) => return Err(SqlError::not_supported("CHECK")),
                other => return Err(SqlError::not_supported(other)),
            }
        }
        if columns.list.is_empty() {
            return Err(SqlError::new(codes::NO_COLUMNS, "A table must have at least 1 column"));
        }
        let primary_key = columns.primary_key()?;
        let indexes = columns.indexes()?;
        let distribution_key = self.distribution_key(&columns.list, &primary_key)?;
        let table = Table {
            id: TableId(0),
            name: name.catalog(),
            version: 1,
            columns: columns.list,
            distribution_key,
            primary_key,
            indexes,
        };
        table.check().map_err(|invalid| SqlError::new(codes::UNKNOWN_ERROR, invalid.0))?;
        Ok(Define::CreateTable { table, if_not_exists: create.if_not_exists })
    }

    /// The columns that place a row, in the primary key's order.
    fn distribution_key(&self, columns: &[Column], primary_key: &[u16]) -> Result<Vec<u16>, SqlError> {
        let named = match &self.parsed.partition_by {
            Some(named) if !named.is_empty() => key_of(columns, named)?,
            _ => return Ok(primary_key.to_vec()),
        };
        if named.iter().any(|column| !primary_key.contains(column)) {
            let text = "A PRIMARY KEY must include all columns in the table's partitioning function";
            return Err(SqlError::new(codes::PARTITION_OUTSIDE_KEY, text));
        }
        Ok(primary_key.iter().copied().filter(|column| named.contains(column)).collect())
    }

    /// Refuses all but columns, keys, and options that say what is so anyway.
    fn check_rest(&self, create: &ast::CreateTable) -> Result<(), SqlError> {
        refuse([
            (create.temporary, "TEMPORARY tables"),
            (create.or_replace, "CREATE OR REPLACE"),
            (create.query.is_some(), "CREATE TABLE … SELECT"),
            (create.like.is_some(), "CREATE TABLE … LIKE"),
        ])?;
        let plain = ast::helpers::stmt_create_table::CreateTableBuilder::new(create.name.clone())
            .if_not_exists(create.if_not_exists)
            .columns(create.columns.clone())
            .constraints(create.constraints.clone())
            .table_options(create.table_options.clone())
            .build();
        refuse([(
            ast::Statement::CreateTable(create.clone()) != ast::Statement::from(plain),
            "such a CREATE TABLE",
        )])?;
        let options = match &create.table_options {
            ast::CreateTableOptions::None => &[][..],
            ast::CreateTableOptions::Plain(options) => options,
            _ => return Err(SqlError::not_supported("such options of a table")),
        };
        options.iter().try_for_each(check_option)
    }

    fn define_column(&self, definition: &ast::ColumnDef, columns: &mut Columns) -> Result<(), SqlError> {
        let name = &definition.name.value;
        check_name(name)?;
        if columns.find(name).is_some() {
            return Err(SqlError::new(codes::DUPLICATE_COLUMN, format!("Duplicate column name '{name}'")));
        }
        let sql_type = column_type(name, &definition.data_type)?;
        let mut declared = Declared::new(sql_type);
        let mut column = Column::new(name.clone(), sql_type.column_type()).nullable();
        let mut default = None;
        for option in &definition.options {
            match &option.option {
                ColumnOption::Null => column.nullable = true,
                ColumnOption::NotNull => column.nullable = false,
                ColumnOption::Default(expr) => default = Some(expr),
                ColumnOption::PrimaryKey(_) => columns.add_key_column(name)?,
                ColumnOption::Collation(collation) => check_collation(Some(&collation.to_string()))?,
                ColumnOption::CharacterSet(charset) => check_charset(Some(&charset.to_string()))?,
                ColumnOption::OnUpdate(expr) if is_now(expr, sql_type) => declared.update_now = true,
                ColumnOption::DialectSpecific(tokens) => {
                    let text: Vec<String> =
                        tokens.iter().map(|token| token.to_string().to_lowercase()).collect();
                    match text.join(" ").as_str() {
                        "auto_increment" if sql_type.is_integer() => declared.auto_increment = true,
                        other => return Err(SqlError::not_supported(other.to_uppercase())),
                    }
                }
                ColumnOption::Unique(_) => {
                    columns.indexes.push(Key { name: None, columns: vec![name.clone()], unique: true });
                }
                ColumnOption::ForeignKey(_) => return Err(SqlError::not_supported("FOREIGN KEY")),
                ColumnOption::Check(_) => return Err(SqlError::not_supported("CHECK")),
                ColumnOption::Comment(_) => return Err(SqlError::not_supported("COMMENT")),
                other => return Err(SqlError::not_supported(other)),
            }
        }
        match default {
            Some(expr) if is_now(expr, sql_type) => declared.default_now = true,
            Some(expr) => column.default = self.default(expr, &column, sql_type)?,
            None => {}
        }
        if declared.auto_increment {
            column.nullable = false;
            if columns.counts {
                return Err(auto_increment_error());
            }
            columns.counts = true;
        }
        column.declared = declared.to_string();
        columns.list.push(column);
        Ok(())
    }

    /// The default of a column; `None` for NULL.
    fn default(
        &self,
        expr: &ast::Expr,
        column: &Column,
        sql_type: SqlType,
    ) -> Result<Option<Value>, SqlError> {
        let invalid =
            || SqlError::new(codes::INVALID_DEFAULT, format!("Invalid default value for '{}'", column.name));
        if sql_type.is_long() {
            return Err(SqlError::not_supported(format_args!(
                "a default for column {} of type {sql_type}",
                column.name
            )));
        }
        let bound = self.expr(expr, &Names::none("field list"))?;
        let Expr::Constant(datum, _) = bound else {
            return Err(SqlError::not_supported("defaults that are computed"));
        };
        if datum.is_null() {
            return if column.nullable { Ok(None) } else { Err(invalid()) };
        }
        match store(&datum, column, sql_type, 1, &Context::default()) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(invalid()),
        }
    }
}

/// The place of the column of this name.
pub(super) fn find_column(columns: &[Column], name: &str) -> Option<usize> {
    columns.iter().position(|column| column.name.to_lowercase() == name.to_lowercase())
}

/// Columns as they are collected.
#[derive(Default)]
struct Columns {
    list: Vec<Column>,
    key: Option<Vec<String>>,
    counts: bool,
    indexes: Vec<Key>,
}

/// A key beside the primary one.
struct Key {
    name: Option<String>,
    columns: Vec<String>,
    unique: bool,
}

impl Columns {
    fn find(&self, name: &str) -> Option<usize> {
        find_column(&self.list, name)
    }

    fn add_key_column(&mut self, name: &str) -> Result<(), SqlError> {
        match self.key.replace(vec![name.to_owned()]) {
            None => Ok(()),
            Some(_) => Err(SqlError::new(codes::TWO_PRIMARY_KEYS, "Multiple primary key defined")),
        }
    }

    fn add_key(&mut self, columns: &[ast::IndexColumn]) -> Result<(), SqlError> {
        match self.key.replace(names_of(columns)?) {
            None => Ok(()),
            Some(_) => Err(SqlError::new(codes::TWO_PRIMARY_KEYS, "Multiple primary key defined")),
        }
    }

    /// The indexes: that of the primary key, and those that were declared; unique ones first, as MySQL has them.
    fn indexes(&self) -> Result<Vec<Index>, SqlError> {
        let mut indexes = vec![Index::new(PRIMARY, Vec::new())];
        for Key { name, columns, unique } in &self.indexes {
            let key = key_of(&self.list, columns)?;
            let name = index_name(name.as_ref(), &columns[0], &indexes)?;
            indexes.push(if *unique { Index::unique(name, key) } else { Index::new(name, key) });
        }
        indexes[1..].sort_by_key(|index| !index.is_unique());
        Ok(indexes)
    }

    /// The indexes of the key's columns, which are made NOT NULL.
    fn primary_key(&mut self) -> Result<Vec<u16>, SqlError> {
        let Some(names) = self.key.take() else {
            return Err(SqlError::not_supported("tables without a primary key"));
        };
        let key = key_of(&self.list, &names)?;
        for &index in &key {
            let column = &mut self.list[usize::from(index)];
            column.nullable = false;
            let sql_type = SqlType::of_column(column);
            if matches!(sql_type, SqlType::Float | SqlType::Double) {
                return Err(SqlError::not_supported(format_args!("{sql_type} in a primary key")));
            }
        }
        let counting = self.list.iter().position(|column| Declared::of_column(column).auto_increment);
        if counting.is_some_and(|index| key.first() != Some(&(index as u16))) {
            return Err(auto_increment_error());
        }
        Ok(key)
    }
}

fn auto_increment_error() -> SqlError {
    let text =
        "Incorrect table definition; there can be only one auto column and it must be defined as a key";
    SqlError::new(codes::BAD_AUTO_INCREMENT, text)
}

fn is_now(expr: &ast::Expr, sql_type: SqlType) -> bool {
    let ast::Expr::Function(function) = expr else { return false };
    let name = function.name.to_string().to_lowercase();
    let now = ["current_timestamp", "now", "localtime", "localtimestamp"].contains(&name.as_str());
    now && matches!(sql_type, SqlType::DateTime(_) | SqlType::Timestamp(_))
}

fn denied(database: &str) -> SqlError {
    let text = format!("Access denied for user 'root'@'localhost' to database '{database}'");
    SqlError::new(codes::DATABASE_DENIED, text)
}

fn check_changeable(database: &str) -> Result<(), SqlError> {
    match SYSTEM_DATABASES.contains(&database.to_lowercase().as_str()) {
        true => Err(denied(database)),
        false => Ok(()),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), SqlError> {
    match name.chars().count() {
        1..=NAME_MAX => Ok(()),
        _ => {
            Err(SqlError::new(codes::NAME_TOO_LONG, format!("Identifier name '{name}' is empty or too long")))
        }
    }
}

fn check_charset(charset: Option<&str>) -> Result<(), SqlError> {
    let known =
        charset.is_none_or(|name| ["utf8mb4", "utf8", "utf8mb3"].contains(&name.to_lowercase().as_str()));
    if known {
        Ok(())
    } else {
        Err(SqlError::not_supported(format_args!("character set {}", charset.unwrap_or(""))))
    }
}

fn check_collation(collation: Option<&str>) -> Result<(), SqlError> {
    let known = ["utf8mb4_0900_bin", "utf8mb4_bin", "utf8mb4_nopad_bin"];
    let good = collation.is_none_or(|name| known.contains(&name.to_lowercase().as_str()));
    if good {
        Ok(())
    } else {
        Err(SqlError::not_supported(format_args!("collation {}", collation.unwrap_or(""))))
    }
}

/// Options that say what is so anyway, or what other engines do.
fn check_option(option: &ast::SqlOption) -> Result<(), SqlError> {
    match option {
        ast::SqlOption::KeyValue { key, value } => {
            let value = value.to_string();
            let value = value.trim_matches(['\'', '"']);
            match key.value.to_uppercase().as_str() {
                "CHARSET" | "CHARACTER SET" | "DEFAULT CHARSET" | "DEFAULT CHARACTER SET" => {
                    check_charset(Some(value))
                }
                "COLLATE" | "DEFAULT COLLATE" => check_collation(Some(value)),
                "ROW_FORMAT" | "ENGINE" => Ok(()),
                other => Err(SqlError::not_supported(format_args!("{other} of a table"))),
            }
        }
        ast::SqlOption::NamedParenthesizedList(list) if list.key.value.eq_ignore_ascii_case("engine") => {
            Ok(())
        }
        ast::SqlOption::Comment(_) => Err(SqlError::not_supported("COMMENT")),
        other => Err(SqlError::not_supported(format_args!("{other} of a table"))),
    }
}

/// The first two words, for errors.
fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn length(data_length: Option<&ast::CharacterLength>) -> Option<u64> {
    match data_length {
        None => None,
        Some(ast::CharacterLength::IntegerLength { length, .. }) => Some(*length),
        Some(ast::CharacterLength::Max) => Some(u64::MAX),
    }
}

/// The type of a column of this name.
fn column_type(name: &str, data_type: &DataType) -> Result<SqlType, SqlError> {
    let sql_type =
        own_type(data_type)?.ok_or_else(|| SqlError::not_supported(format_args!("type {data_type}")))?;
    let too_long = |most: u32| {
        let text =
            format!("Column length too big for column '{name}' (max = {most}); use BLOB or TEXT instead");
        Err(SqlError::new(codes::COLUMN_TOO_LONG, text))
    };
    match sql_type {
        SqlType::Char(256..) | SqlType::Binary(256..) => too_long(255),
        SqlType::Varchar(16_384..) => too_long(16_383),
        SqlType::Varbinary(65_533..) => too_long(65_532),
        SqlType::Decimal { precision, .. } if precision > COLUMN_DIGITS_MAX => {
            let what = format!("DECIMAL of more than {COLUMN_DIGITS_MAX} digits");
            Err(SqlError::not_supported(what))
        }
        SqlType::Decimal { precision, scale } if scale > precision => {
            let text =
                format!("For float(M,D), double(M,D) or decimal(M,D), M must be >= D (column '{name}').");
            Err(SqlError::new(codes::SCALE_OVER_PRECISION, text))
        }
        SqlType::DateTime(7..) | SqlType::Timestamp(7..) => {
            let text =
                format!("Too-big precision {} specified for '{name}'. Maximum is 6.", sql_type.decimals());
            Err(SqlError::new(codes::TOO_BIG_PRECISION, text))
        }
        good => Ok(good),
    }
}

/// The type that a name of the parser's is; `None` for those that there are not.
///
/// # Errors
/// Of numbers of digits that make no sense.
fn own_type(data_type: &DataType) -> Result<Option<SqlType>, SqlError> {
    use DataType as Ast;
    let integer = |bytes| SqlType::Integer { bytes, unsigned: false };
    let unsigned = |bytes| SqlType::Integer { bytes, unsigned: true };
    let most = |length: Option<u64>, default: u32| {
        length.map_or(default, |length| length.min(u32::MAX.into()) as u32)
    };
    let fraction = |digits: &Option<u64>| digits.unwrap_or(0).min(255) as u8;
    let decimal = |info: &ExactNumberInfo| {
        let (precision, scale) = match *info {
            ExactNumberInfo::None => (10, 0),
            ExactNumberInfo::Precision(precision) => (precision, 0),
            ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale.max(0) as u64),
        };
        if precision > 65 || scale > decimal::SCALE_MAX.into() {
            let text = format!(
                "Too big precision {precision} or scale {scale}. Maximum is 65 and {}.",
                decimal::SCALE_MAX
            );
            return Err(SqlError::new(codes::TOO_BIG_PRECISION, text));
        }
        Ok(SqlType::Decimal {
            precision: if precision == 0 { 10 } else { precision as u8 },
            scale: scale as u8,
        })
    };
    Ok(Some(match data_type {
        Ast::Bool | Ast::Boolean | Ast::TinyInt(Some(1)) => SqlType::Bool,
        Ast::TinyInt(_) => integer(1),
        Ast::TinyIntUnsigned(_) => unsigned(1),
        Ast::SmallInt(_) | Ast::Int2(_) => integer(2),
        Ast::SmallIntUnsigned(_) | Ast::Int2Unsigned(_) => unsigned(2),
        Ast::MediumInt(_) => integer(3),
        Ast::MediumIntUnsigned(_) => unsigned(3),
        Ast::Int(_) | Ast::Integer(_) | Ast::Int4(_) => integer(4),
        Ast::IntUnsigned(_) | Ast::IntegerUnsigned(_) | Ast::Int4Unsigned(_) => unsigned(4),
        Ast::BigInt(_) | Ast::Int8(_) => integer(8),
        Ast::BigIntUnsigned(_) | Ast::Int8Unsigned(_) => unsigned(8),
        Ast::Decimal(info) | Ast::Numeric(info) | Ast::Dec(info) => decimal(info)?,
        Ast::Float(ExactNumberInfo::None) | Ast::Float4 => SqlType::Float,
        Ast::Double(ExactNumberInfo::None) | Ast::DoublePrecision | Ast::Real | Ast::Float8 => {
            SqlType::Double
        }
        Ast::Char(chars) | Ast::Character(chars) => SqlType::Char(most(length(chars.as_ref()), 1)),
        Ast::Varchar(chars @ Some(_))
        | Ast::CharacterVarying(chars @ Some(_))
        | Ast::CharVarying(chars @ Some(_)) => SqlType::Varchar(most(length(chars.as_ref()), 0)),
        Ast::Binary(bytes) => SqlType::Binary(most(*bytes, 1)),
        Ast::Varbinary(Some(ast::BinaryLength::IntegerLength { length })) => {
            SqlType::Varbinary(most(Some(*length), 0))
        }
        Ast::TinyText => SqlType::Text(0xff),
        Ast::Text => SqlType::Text(0xffff),
        Ast::MediumText => SqlType::Text(0xff_ffff),
        Ast::LongText => SqlType::Text(u32::MAX),
        Ast::TinyBlob => SqlType::Blob(0xff),
        Ast::Blob(None) => SqlType::Blob(0xffff),
        Ast::MediumBlob => SqlType::Blob(0xff_ffff),
        Ast::LongBlob => SqlType::Blob(u32::MAX),
        Ast::Date => SqlType::Date,
        Ast::Datetime(digits) => SqlType::DateTime(fraction(digits)),
        Ast::Timestamp(digits, ast::TimezoneInfo::None) => SqlType::Timestamp(fraction(digits)),
        _ => return Ok(None),
    }))
}

/// The type that CAST makes.
pub(super) fn cast_type(data_type: &DataType) -> Result<SqlType, SqlError> {
    use DataType as Ast;
    match data_type {
        Ast::Signed | Ast::SignedInteger => Ok(SqlType::BIGINT),
        Ast::Unsigned | Ast::UnsignedInteger => Ok(SqlType::UNSIGNED),
        Ast::Char(None) | Ast::Character(None) => Ok(SqlType::Varchar(u32::MAX)),
        Ast::Binary(None) => Ok(SqlType::Varbinary(u32::MAX)),
        other => match own_type(other)? {
            Some(SqlType::Char(chars)) => Ok(SqlType::Varchar(chars)),
            Some(SqlType::Binary(bytes)) => Ok(SqlType::Varbinary(bytes)),
            Some(
                cast @ (SqlType::Decimal { .. }
                | SqlType::Double
                | SqlType::Float
                | SqlType::Date
                | SqlType::DateTime(0..=6)),
            ) => Ok(cast),
            _ => Err(SqlError::not_supported(format_args!("CAST to {data_type}"))),
        },
    }
}

/// As SHOW CREATE TABLE has it.
pub fn show_create(name: &str, table: &Table) -> String {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let literal =
        |datum: &Datum, sql_type: SqlType| datum.render(sql_type).replace('\\', "\\\\").replace('\'', "''");
    let mut lines: Vec<String> = Vec::new();
    for column in &table.columns {
        let declared = Declared::of_column(column);
        let mut line = format!("  {} {}", quoted(&column.name), declared.sql_type);
        let now = match declared.sql_type.decimals() {
            0 => "CURRENT_TIMESTAMP".to_owned(),
            digits => format!("CURRENT_TIMESTAMP({digits})"),
        };
        if !column.nullable {
            line += " NOT NULL";
        }
        match &column.default {
            _ if declared.default_now => line += &format!(" DEFAULT {now}"),
            Some(value) => {
                let datum = Datum::from_column(value.borrowed(), column.column_type, declared.sql_type);
                line += &match &datum {
                    Datum::Binary(bytes) => format!(
                        " DEFAULT x'{}'",
                        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                    ),
                    datum => format!(" DEFAULT '{}'", literal(datum, declared.sql_type)),
                };
            }
            None if column.nullable && !declared.sql_type.is_long() => line += " DEFAULT NULL",
            None => {}
        }
        if declared.update_now {
            line += &format!(" ON UPDATE {now}");
        }
        if declared.auto_increment {
            line += " AUTO_INCREMENT";
        }
        lines.push(line);
    }
    let key = table.primary_key.iter().map(|&index| quoted(&table.columns[usize::from(index)].name));
    lines.push(format!("  PRIMARY KEY ({})", key.collect::<Vec<_>>().join(",")));
    for index in table.indexes.iter().filter(|index| index.is_public() && !index.columns.is_empty()) {
        let key = index.columns.iter().map(|&column| quoted(&table.columns[usize::from(column)].name));
        let unique = if index.is_unique() { "UNIQUE " } else { "" };
        lines.push(format!("  {unique}KEY {} ({})", quoted(&index.name), key.collect::<Vec<_>>().join(",")));
    }
    let mut options = "ENGINE=twofold DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin".to_owned();
    if table.distribution_key != table.primary_key {
        let placing =
            table.distribution_key.iter().map(|&column| quoted(&table.columns[usize::from(column)].name));
        options += &format!("\nPARTITION BY KEY ({})", placing.collect::<Vec<_>>().join(","));
    }
    format!("CREATE TABLE {} (\n{}\n) {options}", quoted(name), lines.join(",\n"))
}

/// What DESCRIBE tells of each column: name, type, NULL, key, default, extra.
pub fn describe(table: &Table) -> Vec<Vec<Datum>> {
    let row = |(index, column): (usize, &Column)| {
        let declared = Declared::of_column(column);
        let default = match &column.default {
            _ if declared.default_now => "CURRENT_TIMESTAMP".into(),
            Some(value) => {
                let datum = Datum::from_column(value.borrowed(), column.column_type, declared.sql_type);
                Datum::Text(datum.render(declared.sql_type))
            }
            None => Datum::Null,
        };
        let extra = match declared {
            Declared { auto_increment: true, .. } => "auto_increment",
            Declared { default_now: true, update_now: true, .. } => {
                "DEFAULT_GENERATED on update CURRENT_TIMESTAMP"
            }
            Declared { default_now: true, .. } => "DEFAULT_GENERATED",
            Declared { update_now: true, .. } => "on update CURRENT_TIMESTAMP",
            _ => "",
        };
        let public = || table.indexes.iter().filter(|index| index.is_public());
        let begins = public().any(|found| found.columns.first() == Some(&(index as u16)));
        let unique = public().any(|found| found.is_unique() && found.columns == [index as u16]);
        let key = match table.primary_key.contains(&(index as u16)) {
            true => "PRI",
            false if unique => "UNI",
            false if begins => "MUL",
            false => "",
        };
        vec![
            column.name.as_str().into(),
            Datum::Text(declared.sql_type.to_string()),
            if column.nullable { "YES" } else { "NO" }.into(),
            key.into(),
            default,
            extra.into(),
        ]
    };
    table.columns.iter().enumerate().map(row).collect()
}
