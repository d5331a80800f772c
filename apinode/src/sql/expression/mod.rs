//! Expressions: what is computed of a row, of a group of rows, or of nothing.

pub mod compare;
pub mod evaluate;
pub mod function;
pub mod set;
pub mod store;

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use super::{
    bind::Quantified,
    decimal,
    error::{Code, SqlError},
    types::SqlType,
    value::Datum,
};
pub use function::Function;
pub use set::Set;

/// Operators of two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binary {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `DIV`
    IntegerDivide,
    /// `%`, `MOD`
    Remainder,
    /// `|`
    BitOr,
    /// `&`
    BitAnd,
    /// `^`
    BitXor,
    /// `<<`
    ShiftLeft,
    /// `>>`
    ShiftRight,
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<=>`: `=`, and NULL is equal to NULL.
    NullSafeEqual,
    /// `XOR`
    Xor,
}

impl Binary {
    /// Whether it compares.
    pub fn is_comparison(self) -> bool {
        use Binary::*;
        matches!(self, Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual | NullSafeEqual)
    }

    /// The same with its operands the other way round, for comparisons.
    pub fn mirrored(self) -> Binary {
        match self {
            Binary::Less => Binary::Greater,
            Binary::LessOrEqual => Binary::GreaterOrEqual,
            Binary::Greater => Binary::Less,
            Binary::GreaterOrEqual => Binary::LessOrEqual,
            other => other,
        }
    }
}

/// Operators of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unary {
    /// `NOT`, `!`
    Not,
    /// `-`
    Negate,
    /// `~`
    BitNot,
    /// `IS NULL`
    IsNull,
    /// `IS TRUE`
    IsTrue,
    /// `IS FALSE`
    IsFalse,
}

/// An expression, its names resolved.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// A value that the statement says, and its type.
    Constant(Datum, SqlType),
    /// The value of a placeholder.
    Parameter(usize),
    /// A column of the input.
    Column(usize, SqlType),
    /// A value that is given to the query, and its type.
    Given(usize, SqlType),
    /// How a value compares with a set that is given.
    Among(Box<Quantified>, usize),
    /// An operator of one operand.
    Unary(Unary, Box<Expr>),
    /// An operator of two.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `AND` of all.
    All(Vec<Expr>),
    /// `OR` of all.
    Any(Vec<Expr>),
    /// `IN` a list.
    In(Box<Expr>, Vec<Expr>),
    /// `BETWEEN` two.
    Between(Box<Expr>, Box<(Expr, Expr)>),
    /// `LIKE` a pattern, with a character that escapes.
    Like(Box<Expr>, Box<Expr>, Option<char>),
    /// `CASE`: what conditions have to be equal to, unless they only have to hold; conditions and results; the result of `ELSE`.
    Case(Option<Box<Expr>>, Vec<(Expr, Expr)>, Option<Box<Expr>>),
    /// `CAST` to a type.
    Cast(Box<Expr>, SqlType),
    /// A function.
    Call(Function, Vec<Expr>),
}

/// How bad a warning is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// To be known.
    Note,
    /// To be looked at.
    Warning,
    /// An error that was not one here.
    Error,
}

impl Level {
    /// As SHOW WARNINGS has it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "Note",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }
}

/// Warnings that are kept; of others it is known how many.
pub const WARNINGS_MAX: usize = 64;

/// What a statement warns of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Warnings {
    /// The first of them.
    pub kept: Vec<(Level, SqlError)>,
    /// How many there are.
    pub count: usize,
}

impl Warnings {
    /// Another one.
    pub fn push(&mut self, level: Level, error: SqlError) {
        self.count += 1;
        if self.kept.len() < WARNINGS_MAX {
            self.kept.push((level, error));
        }
    }

    /// Those of another one, too.
    pub fn append(&mut self, other: Warnings) {
        self.count += other.count;
        let room = WARNINGS_MAX - self.kept.len();
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// How many, as results tell it.
    pub fn told(&self) -> u16 {
        self.count.min(u16::MAX.into()) as u16
    }
}

/// What is given to a query.
#[derive(Clone, Debug)]
pub enum GivenValue {
    /// A value.
    Value(Datum),
    /// The values of a subquery.
    Set(Rc<Set>),
}

/// What expressions are computed with, beside rows.
#[derive(Debug, Default)]
pub struct Context<'a> {
    /// The values of placeholders.
    pub parameters: &'a [Datum],
    /// What is given to the query.
    pub given: Vec<GivenValue>,
    /// Whether what makes no sense is an error, as where rows are written, and not a warning.
    pub strict: Cell<bool>,
    /// What was warned of.
    pub warnings: RefCell<Warnings>,
}

impl<'a> Context<'a> {
    /// With these values of placeholders.
    pub fn new(parameters: &'a [Datum]) -> Context<'a> {
        Context { parameters, ..Context::default() }
    }

    /// For a query that is a part of another one, with what is given to it.
    pub fn within(&self, given: Vec<GivenValue>) -> Context<'a> {
        let Context { parameters, strict, .. } = self;
        Context { parameters, given, strict: strict.clone(), warnings: RefCell::default() }
    }

    /// The values that an operand has to be one of.
    pub fn set_of(&self, expr: &Expr) -> Option<&Set> {
        let Expr::Among(quantified, index) = expr else { return None };
        match self.given.get(*index) {
            Some(GivenValue::Set(set)) if quantified.operator == Binary::Equal && !quantified.all => {
                Some(set)
            }
            _ => None,
        }
    }

    /// Warns, or fails where that is asked for.
    ///
    /// # Errors
    /// The warning.
    pub fn warn(&self, code: Code, text: impl Into<String>) -> Result<(), SqlError> {
        let error = SqlError::new(code, text);
        if self.strict.get() {
            return Err(error);
        }
        self.warnings.borrow_mut().push(Level::Warning, error);
        Ok(())
    }
}

impl Expr {
    /// NULL.
    pub const NULL: Expr = Expr::Constant(Datum::Null, SqlType::Null);

    /// An expression of this operator.
    pub fn binary(operator: Binary, left: Expr, right: Expr) -> Expr {
        Expr::Binary(operator, Box::new(left), Box::new(right))
    }

    /// The same, negated if it is said so.
    pub fn negated(self, negated: bool) -> Expr {
        if negated { Expr::Unary(Unary::Not, Box::new(self)) } else { self }
    }

    /// Calls with all expressions right within this one.
    pub fn each_child<'e>(&'e self, call: &mut dyn FnMut(&'e Expr)) {
        match self {
            Expr::Constant(..) | Expr::Parameter(_) | Expr::Column(..) | Expr::Given(..) => {}
            Expr::Among(quantified, _) => call(&quantified.of),
            Expr::Unary(_, inner) | Expr::Cast(inner, _) => call(inner),
            Expr::Binary(_, left, right) | Expr::Like(left, right, _) => {
                call(left);
                call(right);
            }
            Expr::All(list) | Expr::Any(list) | Expr::Call(_, list) => list.iter().for_each(call),
            Expr::In(of, list) => {
                call(of);
                list.iter().for_each(call);
            }
            Expr::Between(of, bounds) => {
                call(of);
                call(&bounds.0);
                call(&bounds.1);
            }
            Expr::Case(operand, cases, otherwise) => {
                operand.iter().for_each(|operand| call(operand));
                for (condition, result) in cases {
                    call(condition);
                    call(result);
                }
                otherwise.iter().for_each(|otherwise| call(otherwise));
            }
        }
    }

    /// Replaces all expressions right within this one.
    ///
    /// # Errors
    /// The first that `replace` gives.
    pub fn map_children(
        self,
        replace: &mut dyn FnMut(Expr) -> Result<Expr, SqlError>,
    ) -> Result<Expr, SqlError> {
        let list = |list: Vec<Expr>, replace: &mut dyn FnMut(Expr) -> Result<Expr, SqlError>| {
            list.into_iter().map(replace).collect::<Result<Vec<Expr>, SqlError>>()
        };
        Ok(match self {
            Expr::Constant(..) | Expr::Parameter(_) | Expr::Column(..) | Expr::Given(..) => self,
            Expr::Among(quantified, set) => {
                let Quantified { of, operator, all } = *quantified;
                Expr::Among(Box::new(Quantified { of: replace(of)?, operator, all }), set)
            }
            Expr::Unary(operator, inner) => Expr::Unary(operator, Box::new(replace(*inner)?)),
            Expr::Cast(inner, sql_type) => Expr::Cast(Box::new(replace(*inner)?), sql_type),
            Expr::Binary(operator, left, right) => Expr::binary(operator, replace(*left)?, replace(*right)?),
            Expr::Like(of, pattern, escape) => {
                Expr::Like(Box::new(replace(*of)?), Box::new(replace(*pattern)?), escape)
            }
            Expr::All(parts) => Expr::All(list(parts, replace)?),
            Expr::Any(parts) => Expr::Any(list(parts, replace)?),
            Expr::Call(function, arguments) => Expr::Call(function, list(arguments, replace)?),
            Expr::In(of, parts) => Expr::In(Box::new(replace(*of)?), list(parts, replace)?),
            Expr::Between(of, bounds) => {
                let bounds = Box::new((replace(bounds.0)?, replace(bounds.1)?));
                Expr::Between(Box::new(replace(*of)?), bounds)
            }
            Expr::Case(operand, cases, otherwise) => {
                let operand = operand.map(|operand| replace(*operand).map(Box::new)).transpose()?;
                let mut replaced = Vec::with_capacity(cases.len());
                for (condition, result) in cases {
                    replaced.push((replace(condition)?, replace(result)?));
                }
                let otherwise = otherwise.map(|otherwise| replace(*otherwise).map(Box::new)).transpose()?;
                Expr::Case(operand, replaced, otherwise)
            }
        })
    }

    /// How many expressions it consists of.
    pub fn size(&self) -> usize {
        let mut size = 1;
        self.each_child(&mut |child| size += child.size());
        size
    }

    /// Calls with the columns of the input that it reads.
    pub fn each_column(&self, call: &mut dyn FnMut(usize)) {
        if let Expr::Column(index, _) = self {
            call(*index);
        }
        self.each_child(&mut |child| child.each_column(call));
    }

    /// The same of a row that has other columns: each is replaced by what `place` makes of it.
    #[must_use]
    pub fn with_columns(&self, place: &dyn Fn(usize, SqlType) -> Expr) -> Expr {
        fn replaced(expr: Expr, place: &dyn Fn(usize, SqlType) -> Expr) -> Result<Expr, SqlError> {
            match expr {
                Expr::Column(index, sql_type) => Ok(place(index, sql_type)),
                other => other.map_children(&mut |child| replaced(child, place)),
            }
        }
        // Nothing here fails.
        replaced(self.clone(), place).unwrap_or(Expr::NULL)
    }

    /// Those parts of which all have to hold that read columns before this one alone.
    pub fn without_columns_from(&self, end: usize) -> Option<Expr> {
        let is_before = |part: &&Expr| {
            let mut before = true;
            part.each_column(&mut |column| before &= column < end);
            before
        };
        let mut parts: Vec<Expr> = self.conjuncts().iter().filter(is_before).cloned().collect();
        if parts.len() > 1 { Some(Expr::All(parts)) } else { parts.pop() }
    }

    /// Whether it reads no column.
    pub fn is_constant(&self) -> bool {
        let mut reads = false;
        self.each_column(&mut |_| reads = true);
        !reads
    }

    /// The parts of which all have to hold.
    pub fn conjuncts(&self) -> &[Expr] {
        match self {
            Expr::All(list) => list,
            other => std::slice::from_ref(other),
        }
    }

    /// The type of its value, with these values of placeholders; where there are none yet, they are text.
    pub fn sql_type(&self, parameters: &[Datum]) -> SqlType {
        let of = |expr: &Expr| expr.sql_type(parameters);
        match self {
            Expr::Constant(_, sql_type)
            | Expr::Column(_, sql_type)
            | Expr::Given(_, sql_type)
            | Expr::Cast(_, sql_type) => *sql_type,
            Expr::Parameter(index) => parameters.get(*index).map_or(SqlType::Varchar(0), datum_type),
            Expr::Unary(Unary::Negate, inner) => match of(inner) {
                sql_type if sql_type.is_integer() => SqlType::BIGINT,
                sql_type @ SqlType::Decimal { .. } => sql_type,
                _ => SqlType::Double,
            },
            Expr::Unary(Unary::BitNot, _) => SqlType::UNSIGNED,
            Expr::Binary(operator, left, right) => arithmetic_type(*operator, of(left), of(right)),
            Expr::Case(_, cases, otherwise) => {
                let results = cases.iter().map(|(_, result)| of(result));
                let types = results.chain(otherwise.iter().map(|otherwise| of(otherwise)));
                types.reduce(common_type).unwrap_or(SqlType::Null)
            }
            Expr::Call(function, arguments) => {
                let types: Vec<SqlType> = arguments.iter().map(of).collect();
                function.sql_type(&types, arguments)
            }
            Expr::Unary(..)
            | Expr::Among(..)
            | Expr::All(_)
            | Expr::Any(_)
            | Expr::In(..)
            | Expr::Between(..)
            | Expr::Like(..) => SqlType::Integer { bytes: 4, unsigned: false },
        }
    }
}

/// The type of a value of which nothing else is known.
pub fn datum_type(datum: &Datum) -> SqlType {
    match datum {
        Datum::Null => SqlType::Null,
        Datum::Int(_) => SqlType::BIGINT,
        Datum::UInt(_) => SqlType::UNSIGNED,
        Datum::Decimal(value) => {
            let (whole, scale) = value.shape();
            SqlType::Decimal { precision: (whole + scale).max(1), scale }
        }
        Datum::Double(_) => SqlType::Double,
        Datum::Text(text) => SqlType::Varchar(text.chars().count() as u32),
        Datum::Binary(bytes) => SqlType::Varbinary(bytes.len() as u32),
        Datum::Date(_) => SqlType::Date,
        Datum::DateTime(at) => SqlType::DateTime(if at % 1_000_000 == 0 { 0 } else { 6 }),
    }
}

/// Precision and scale that a number of this type has as a decimal; `None` for floats and strings.
fn decimal_shape(sql_type: SqlType) -> Option<(u8, u8)> {
    match sql_type {
        SqlType::Decimal { precision, scale } => Some((precision, scale)),
        SqlType::Null => Some((1, 0)),
        SqlType::Date => Some((8, 0)),
        SqlType::DateTime(digits) | SqlType::Timestamp(digits) => Some((14 + digits, digits)),
        _ => {
            let (_, most) = sql_type.integer_range()?;
            Some((most.ilog10() as u8 + 1, 0))
        }
    }
}

fn arithmetic_type(operator: Binary, left: SqlType, right: SqlType) -> SqlType {
    use Binary::*;
    match operator {
        BitOr | BitAnd | BitXor | ShiftLeft | ShiftRight => return SqlType::UNSIGNED,
        Add | Subtract | Multiply | Divide | IntegerDivide | Remainder => {}
        _ => return SqlType::Integer { bytes: 4, unsigned: false },
    }
    let unsigned = left.is_unsigned() || right.is_unsigned();
    if operator == IntegerDivide {
        return SqlType::Integer { bytes: 8, unsigned };
    }
    let whole =
        |sql_type: SqlType| sql_type.is_integer() || matches!(sql_type, SqlType::Null | SqlType::Date);
    if whole(left) && whole(right) && operator != Divide {
        let unsigned = if operator == Remainder { left.is_unsigned() } else { unsigned };
        return SqlType::Integer { bytes: 8, unsigned };
    }
    let (Some((p, s)), Some((q, t))) = (decimal_shape(left), decimal_shape(right)) else {
        return SqlType::Double;
    };
    let scale = match operator {
        Multiply => (s + t).min(decimal::SCALE_MAX),
        Divide => decimal::quotient_scale(s),
        _ => s.max(t),
    };
    let whole = match operator {
        Multiply => (p - s) + (q - t),
        Divide => (p - s) + t,
        _ => (p - s).max(q - t) + 1,
    };
    SqlType::Decimal { precision: (whole + scale).min(65), scale }
}

/// The type that values of both can have: of CASE, IF, COALESCE.
pub fn common_type(a: SqlType, b: SqlType) -> SqlType {
    use SqlType::*;
    match (a, b) {
        (Null, other) | (other, Null) => other,
        (a, b) if a == b => a,
        (a, b) if a.is_number() && b.is_number() => match (decimal_shape(a), decimal_shape(b)) {
            (Some((p, s)), Some((q, t))) => {
                let scale = s.max(t);
                let precision = ((p - s).max(q - t) + scale).min(65);
                match a.is_integer() && b.is_integer() {
                    true => Integer { bytes: 8, unsigned: a.is_unsigned() && b.is_unsigned() },
                    false => Decimal { precision, scale },
                }
            }
            _ => Double,
        },
        (a, b) if a.is_temporal() && b.is_temporal() => DateTime(a.decimals().max(b.decimals())),
        (a, b) if a.is_binary() || b.is_binary() => Varbinary(a.display_width().max(b.display_width())),
        (a, b) => {
            let chars = |sql_type: SqlType| match sql_type {
                Char(chars) | Varchar(chars) => chars,
                other => other.display_width(),
            };
            Varchar(chars(a).max(chars(b)))
        }
    }
}

/// For golden tests, and for EXPLAIN.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, list: &[Expr], by: &str| {
            for (index, expr) in list.iter().enumerate() {
                write!(f, "{}{expr}", if index > 0 { by } else { "" })?;
            }
            Ok(())
        };
        match self {
            Expr::Constant(datum @ (Datum::Text(_) | Datum::Date(_) | Datum::DateTime(_)), _) => {
                write!(f, "'{}'", datum.text())
            }
            Expr::Constant(datum, _) => f.write_str(&datum.text()),
            Expr::Parameter(index) => write!(f, "?{index}"),
            Expr::Column(index, _) => write!(f, "#{index}"),
            Expr::Given(index, _) => write!(f, "!{index}"),
            Expr::Among(quantified, index) => {
                let Quantified { of, operator, all } = &**quantified;
                write!(f, "{operator:?}{}({of}: !{index})", if *all { "All" } else { "Any" })
            }
            Expr::Unary(operator, inner) => write!(f, "{operator:?}({inner})"),
            Expr::Binary(operator, left, right) => write!(f, "{operator:?}({left}, {right})"),
            Expr::All(parts) => {
                f.write_str("All(")?;
                list(f, parts, ", ")?;
                f.write_str(")")
            }
            Expr::Any(parts) => {
                f.write_str("Any(")?;
                list(f, parts, ", ")?;
                f.write_str(")")
            }
            Expr::In(of, parts) => {
                write!(f, "In({of}: ")?;
                list(f, parts, ", ")?;
                f.write_str(")")
            }
            Expr::Between(of, bounds) => write!(f, "Between({of}: {}, {})", bounds.0, bounds.1),
            Expr::Like(of, pattern, _) => write!(f, "Like({of}, {pattern})"),
            Expr::Case(operand, cases, otherwise) => {
                f.write_str("Case(")?;
                if let Some(operand) = operand {
                    write!(f, "{operand} = ")?;
                }
                for (condition, result) in cases {
                    write!(f, "{condition}: {result}, ")?;
                }
                match otherwise {
                    Some(otherwise) => write!(f, "{otherwise})"),
                    None => f.write_str("NULL)"),
                }
            }
            Expr::Cast(inner, sql_type) => write!(f, "Cast({inner}: {sql_type})"),
            Expr::Call(function, arguments) => {
                write!(f, "{}(", function.name())?;
                list(f, arguments, ", ")?;
                f.write_str(")")
            }
        }
    }
}
