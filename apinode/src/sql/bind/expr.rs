//! Expressions.

use std::cell::RefCell;

use sqlparser::ast::{self, BinaryOperator, DataType, Expr as Ast, UnaryOperator};

use super::{
    Aggregate, AggregateKind, Binder, constant,
    define::cast_type,
    from::{From, Source, column_of},
    subquery::{Answer, Frame, Given},
};
use crate::sql::{
    decimal::Decimal,
    error::{SqlError, codes},
    expression::{Binary, Expr, Function, Unary, function::unhex},
    session::VERSION,
    temporal,
    types::SqlType,
    value::Datum,
};

/// Where aggregates are numbered from among the columns of an input, until it is known how rows are grouped.
pub(super) const AGGREGATES: usize = 1 << 20;

/// Parts of expressions for which names stand in a statement.
const COPIED_MAX: usize = 1 << 20;

/// What names mean in an expression.
#[derive(Clone, Copy)]
pub(super) struct Names<'n> {
    /// The sources whose columns may be used.
    pub sources: &'n [Source],
    /// Those columns that names alone may mean.
    pub star: &'n [usize],
    /// The part of the statement, as errors name it.
    pub clause: &'static str,
    /// Aggregates that were found; `None` where there can be none.
    pub aggregates: Option<&'n RefCell<Vec<Aggregate>>>,
    /// Names of what is selected, which come before columns.
    pub aliases: &'n [(String, Expr)],
    /// Whether VALUES(c) is the column c of the row that was to be inserted. It follows those of the row that is there.
    pub new_row: bool,
    /// What the query has of subqueries; `None` where there can be none.
    pub frame: Option<&'n Frame<'n>>,
}

impl<'n> Names<'n> {
    /// No columns.
    pub fn none(clause: &'static str) -> Names<'n> {
        Names { sources: &[], star: &[], clause, aggregates: None, aliases: &[], new_row: false, frame: None }
    }

    /// The columns of these sources.
    pub fn of(from: &'n From, clause: &'static str) -> Names<'n> {
        Names { sources: &from.sources, star: &from.star, ..Names::none(clause) }
    }

    fn own(&self, qualifier: &[&str], name: &str) -> Result<Option<(usize, SqlType)>, SqlError> {
        column_of(self.sources, self.star, qualifier, name, self.clause)
    }

    fn unknown(&self, qualifier: &[&str], name: &str) -> SqlError {
        let full = qualifier.iter().chain([&name]).copied().collect::<Vec<_>>().join(".");
        SqlError::new(codes::UNKNOWN_COLUMN, format!("Unknown column '{full}' in '{}'", self.clause))
    }

    /// The place of a column of the sources.
    pub fn column(&self, qualifier: &[&str], name: &str) -> Result<usize, SqlError> {
        let found = self.own(qualifier, name)?;
        found.map(|(column, _)| column).ok_or_else(|| self.unknown(qualifier, name))
    }

    /// What a name means here: a column, or one of a query around this one.
    fn resolve(&self, qualifier: &[&str], name: &str) -> Result<Expr, SqlError> {
        if let Some((column, sql_type)) = self.own(qualifier, name)? {
            return Ok(Expr::Column(column, sql_type));
        }
        let around = self.frame.and_then(|frame| Some((frame, frame.parent?)));
        let Some((frame, parent)) = around else { return Err(self.unknown(qualifier, name)) };
        match parent.resolve(qualifier, name) {
            Ok(expr) => {
                let sql_type = expr.sql_type(&[]);
                Ok(Expr::Given(frame.give(Given::Outer(expr)), sql_type))
            }
            Err(error) if error.code == codes::UNKNOWN_COLUMN => Err(self.unknown(qualifier, name)),
            Err(error) => Err(error),
        }
    }
}

impl Binder<'_> {
    /// Resolves an expression.
    pub(super) fn expr(&self, expr: &Ast, names: &Names<'_>) -> Result<Expr, SqlError> {
        let bind = |expr: &Ast| self.expr(expr, names);
        let boxed = |expr: &Ast| bind(expr).map(Box::new);
        let unary = |operator: Unary, expr: &Ast| Ok(Expr::Unary(operator, boxed(expr)?));
        let not = |expr: Expr| expr.negated(true);
        match expr {
            Ast::Nested(inner) => bind(inner),
            Ast::Value(value) => self.value(value),
            Ast::Identifier(ident) => self.identifier(ident, names),
            Ast::CompoundIdentifier(parts) => self.compound(parts, names),
            Ast::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                self.chain(left, op, right, names)
            }
            Ast::BinaryOp { left, op, right } => {
                Ok(Expr::binary(binary_operator(op)?, bind(left)?, bind(right)?))
            }
            Ast::UnaryOp { op, expr } => match op {
                UnaryOperator::Plus => bind(expr),
                UnaryOperator::Minus => Ok(match bind(expr)? {
                    // The least BIGINT is written as a number that is none.
                    Expr::Constant(Datum::UInt(value), _) if value == 1 << 63 => {
                        constant(&Datum::Int(i64::MIN))
                    }
                    Expr::Constant(Datum::Int(value), sql_type) if value != i64::MIN => {
                        Expr::Constant(Datum::Int(-value), sql_type)
                    }
                    Expr::Constant(Datum::Decimal(Decimal { digits, scale }), sql_type) => {
                        Expr::Constant(Datum::Decimal(Decimal { digits: -digits, scale }), sql_type)
                    }
                    Expr::Constant(Datum::Double(value), sql_type) => {
                        Expr::Constant(Datum::Double(-value), sql_type)
                    }
                    other => Expr::Unary(Unary::Negate, Box::new(other)),
                }),
                UnaryOperator::Not | UnaryOperator::BangNot => unary(Unary::Not, expr),
                UnaryOperator::BitwiseNot => unary(Unary::BitNot, expr),
                other => Err(SqlError::not_supported(format_args!("operator {other}"))),
            },
            Ast::IsNull(inner) | Ast::IsUnknown(inner) => unary(Unary::IsNull, inner),
            Ast::IsNotNull(inner) | Ast::IsNotUnknown(inner) => unary(Unary::IsNull, inner).map(not),
            Ast::IsTrue(inner) => unary(Unary::IsTrue, inner),
            Ast::IsNotTrue(inner) => unary(Unary::IsTrue, inner).map(not),
            Ast::IsFalse(inner) => unary(Unary::IsFalse, inner),
            Ast::IsNotFalse(inner) => unary(Unary::IsFalse, inner).map(not),
            Ast::InList { expr, list, negated } => {
                let list: Result<Vec<Expr>, SqlError> = list.iter().map(bind).collect();
                Ok(Expr::In(boxed(expr)?, list?).negated(*negated))
            }
            Ast::Between { expr, negated, low, high } => {
                let bounds = Box::new((bind(low)?, bind(high)?));
                Ok(Expr::Between(boxed(expr)?, bounds).negated(*negated))
            }
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                let escape = match escape_char {
                    None => Some('\\'),
                    Some(escape) => match bind(escape)? {
                        Expr::Constant(Datum::Text(text), _) if text.chars().count() <= 1 => {
                            text.chars().next()
                        }
                        _ => {
                            return Err(SqlError::new(
                                codes::WRONG_ARGUMENTS,
                                "Incorrect arguments to ESCAPE",
                            ));
                        }
                    },
                };
                Ok(Expr::Like(boxed(expr)?, boxed(pattern)?, escape).negated(*negated))
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                let operand = operand.as_ref().map(|operand| boxed(operand)).transpose()?;
                let case = |case: &ast::CaseWhen| Ok((bind(&case.condition)?, bind(&case.result)?));
                let cases: Result<Vec<(Expr, Expr)>, SqlError> = conditions.iter().map(case).collect();
                let otherwise = else_result.as_ref().map(|otherwise| boxed(otherwise)).transpose()?;
                Ok(Expr::Case(operand, cases?, otherwise))
            }
            Ast::Cast { kind: ast::CastKind::Cast, expr, data_type, format: None, .. } => {
                // BINARY x, and CAST(x AS BINARY).
                Ok(Expr::Cast(boxed(expr)?, cast_type(data_type)?))
            }
            Ast::Convert { expr, data_type: Some(data_type), charset: None, .. } => {
                Ok(Expr::Cast(boxed(expr)?, cast_type(data_type)?))
            }
            Ast::Ceil { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                Ok(Expr::Call(Function::Ceiling, vec![bind(expr)?]))
            }
            Ast::Floor { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                Ok(Expr::Call(Function::Floor, vec![bind(expr)?]))
            }
            Ast::Substring { expr, substring_from: Some(from), substring_for, .. } => {
                let mut arguments = vec![bind(expr)?, bind(from)?];
                if let Some(most) = substring_for {
                    arguments.push(bind(most)?);
                }
                Ok(Expr::Call(Function::Substring, arguments))
            }
            Ast::Trim { expr, trim_where, trim_what: None, trim_characters: None } => {
                let function = match trim_where {
                    None | Some(ast::TrimWhereField::Both) => Function::Trim,
                    Some(ast::TrimWhereField::Leading) => Function::LTrim,
                    Some(ast::TrimWhereField::Trailing) => Function::RTrim,
                };
                Ok(Expr::Call(function, vec![bind(expr)?]))
            }
            Ast::Prefixed { prefix, value } => self.prefixed(&prefix.value, value, names),
            Ast::Collate { expr, collation } => match collation.to_string().to_lowercase().as_str() {
                "utf8mb4_bin" | "utf8mb4_0900_bin" | "utf8mb4_nopad_bin" => bind(expr),
                other => Err(SqlError::not_supported(format_args!("COLLATE {other}"))),
            },
            Ast::TypedString(typed)
                if matches!(typed.data_type, DataType::Date | DataType::Timestamp(..)) =>
            {
                let text = Ast::Value(typed.value.clone());
                let Expr::Constant(datum, _) = bind(&text)? else {
                    return Err(SqlError::not_supported("such literals"));
                };
                let is_date = typed.data_type == DataType::Date;
                let name = if is_date { "DATE" } else { "DATETIME" };
                let wrong = || {
                    SqlError::new(codes::WRONG_VALUE, format!("Incorrect {name} value: '{}'", datum.text()))
                };
                let (at, _) = temporal::parse(&datum.text()).filter(|(_, all)| *all).ok_or_else(wrong)?;
                Ok(constant(&if is_date { Datum::Date(temporal::split(at).0) } else { Datum::DateTime(at) }))
            }
            Ast::Function(function) => self.function(function, names),
            Ast::Subquery(query) => self.subquery(query, names, Answer::Value, None),
            Ast::Exists { subquery, negated } => {
                Ok(self.subquery(subquery, names, Answer::Exists, None)?.negated(*negated))
            }
            Ast::InSubquery { expr, subquery, negated } => {
                Ok(self.quantified(expr, Binary::Equal, false, subquery, names)?.negated(*negated))
            }
            Ast::AnyOp { left, compare_op, right, .. } | Ast::AllOp { left, compare_op, right } => {
                let operator = binary_operator(compare_op)?;
                let all = matches!(expr, Ast::AllOp { .. });
                match &**right {
                    Ast::Subquery(query) if operator.is_comparison() => {
                        self.quantified(left, operator, all, query, names)
                    }
                    _ => Err(SqlError::not_supported("such an ANY or ALL")),
                }
            }
            Ast::Tuple(_) => Err(SqlError::not_supported("row values")),
            Ast::Interval(_) => Err(SqlError::not_supported("INTERVAL")),
            Ast::RLike { .. } => Err(SqlError::not_supported("REGEXP")),
            other => Err(SqlError::not_supported(format_args!("expression {other}"))),
        }
    }

    /// AND and OR, whose chains are as deep as they are long.
    fn chain(
        &self,
        left: &Ast,
        op: &BinaryOperator,
        right: &Ast,
        names: &Names<'_>,
    ) -> Result<Expr, SqlError> {
        let mut parts = vec![right];
        let mut rest = left;
        while let Ast::BinaryOp { left, op: other, right } = rest {
            if other != op {
                break;
            }
            parts.push(right);
            rest = left;
        }
        parts.push(rest);
        let is_and = *op == BinaryOperator::And;
        let mut bound = Vec::with_capacity(parts.len());
        for part in parts.into_iter().rev() {
            match self.expr(part, names)? {
                Expr::All(list) if is_and => bound.extend(list),
                Expr::Any(list) if !is_and => bound.extend(list),
                other => bound.push(other),
            }
        }
        Ok(if is_and { Expr::All(bound) } else { Expr::Any(bound) })
    }

    fn value(&self, value: &ast::ValueWithSpan) -> Result<Expr, SqlError> {
        use ast::Value::*;
        Ok(match &value.value {
            Number(text, _) => constant(&number(text)),
            SingleQuotedString(text) | DoubleQuotedString(text) | NationalStringLiteral(text) => {
                constant(&Datum::Text(text.clone()))
            }
            HexStringLiteral(digits) => match unhex(digits) {
                Some(bytes) => constant(&Datum::Binary(bytes)),
                None => {
                    return Err(SqlError::new(
                        codes::SYNTAX,
                        format!("You have an error in your SQL syntax: X'{digits}'"),
                    ));
                }
            },
            Boolean(value) => Expr::Constant((*value).into(), SqlType::Integer { bytes: 4, unsigned: false }),
            Null => Expr::NULL,
            Placeholder(text) if text == "?" => match self.parsed.placeholder(value.span.start) {
                Some(index) => Expr::Parameter(index),
                None => return Err(SqlError::new(codes::INTERNAL, "a placeholder is lost")),
            },
            other => return Err(SqlError::not_supported(format_args!("literal {other}"))),
        })
    }

    fn identifier(&self, ident: &ast::Ident, names: &Names<'_>) -> Result<Expr, SqlError> {
        if ident.quote_style.is_none() {
            if let Some(name) = ident.value.strip_prefix("@@") {
                return self.variable(name);
            }
            if ident.value.starts_with('@') {
                return Err(SqlError::not_supported("user variables"));
            }
        }
        if ident.quote_style == Some('"') {
            return Ok(constant(&Datum::Text(ident.value.clone())));
        }
        if let Some((_, expr)) =
            names.aliases.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&ident.value))
        {
            self.copied(expr)?;
            return Ok(expr.clone());
        }
        names.resolve(&[], &ident.value)
    }

    /// A name for an expression is written once and used often: together they stay bounded.
    fn copied(&self, expr: &Expr) -> Result<(), SqlError> {
        let size = self.copied.get() + expr.size();
        self.copied.set(size);
        if size > COPIED_MAX {
            let text =
                format!("Thread stack overrun: names stand for more than {COPIED_MAX} parts of expressions");
            return Err(SqlError::new(codes::STACK_OVERRUN, text));
        }
        Ok(())
    }

    fn compound(&self, parts: &[ast::Ident], names: &Names<'_>) -> Result<Expr, SqlError> {
        let values: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        match values.as_slice() {
            ["@@session" | "@@SESSION" | "@@local" | "@@global" | "@@GLOBAL", name] => self.variable(name),
            [qualifier @ .., name] => names.resolve(qualifier, name),
            [] => Err(SqlError::not_supported("a name without parts")),
        }
    }

    fn variable(&self, name: &str) -> Result<Expr, SqlError> {
        self.volatile.set(true);
        Ok(constant(&self.session.variable(name)?))
    }

    fn prefixed(&self, prefix: &str, value: &Ast, names: &Names<'_>) -> Result<Expr, SqlError> {
        let bound = self.expr(value, names)?;
        match (prefix.to_lowercase().as_str(), bound) {
            ("_utf8mb4" | "_utf8" | "_utf8mb3" | "n", bound @ Expr::Constant(Datum::Text(_), _)) => Ok(bound),
            ("_utf8mb4" | "_utf8" | "_utf8mb3", Expr::Constant(Datum::Binary(bytes), _)) => {
                let text = String::from_utf8(bytes);
                let invalid = |_| SqlError::new(codes::NOT_UTF8, "Invalid utf8mb4 character string");
                Ok(constant(&Datum::Text(text.map_err(invalid)?)))
            }
            ("_binary", Expr::Constant(datum, _)) => Ok(constant(&Datum::Binary(datum.text().into_bytes()))),
            (other, _) => {
                Err(SqlError::not_supported(format_args!("character set {}", other.trim_start_matches('_'))))
            }
        }
    }

    fn function(&self, function: &ast::Function, names: &Names<'_>) -> Result<Expr, SqlError> {
        let name = function.name.to_string().to_lowercase();
        let (arguments, distinct): (&[ast::FunctionArg], bool) = match &function.args {
            ast::FunctionArguments::None => (&[], false),
            ast::FunctionArguments::Subquery(_) => {
                return Err(SqlError::not_supported(format_args!("a query in {name}()")));
            }
            ast::FunctionArguments::List(list) => {
                if !list.clauses.is_empty() {
                    return Err(SqlError::not_supported(format_args!("clauses in {name}()")));
                }
                (&list.args, list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct))
            }
        };
        super::refuse([
            (function.over.is_some(), "window functions"),
            (function.filter.is_some(), "FILTER"),
            (!function.within_group.is_empty(), "WITHIN GROUP"),
            (function.null_treatment.is_some(), "NULLS in functions"),
            (function.parameters != ast::FunctionArguments::None, "parameters of functions"),
        ])?;
        if let Some(kind) = AggregateKind::from_name(&name) {
            return self.aggregate(kind, arguments, distinct, names);
        }
        if distinct {
            return Err(SqlError::not_supported(format_args!("DISTINCT in {name}()")));
        }
        let plain: Result<Vec<&Ast>, SqlError> = arguments
            .iter()
            .map(|argument| match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Ok(expr),
                _ => Err(SqlError::not_supported(format_args!("such arguments of {name}()"))),
            })
            .collect();
        let plain = plain?;
        if let Some(value) = self.of_session(&name, &plain)? {
            return Ok(value);
        }
        if name == "values" && names.new_row {
            let [Ast::Identifier(column)] = plain[..] else {
                return Err(SqlError::new(
                    codes::SYNTAX,
                    "You have an error in your SQL syntax: VALUES() takes a column",
                ));
            };
            let (index, sql_type) =
                names.own(&[], &column.value)?.ok_or_else(|| names.unknown(&[], &column.value))?;
            return Ok(Expr::Column(names.star.len() + index, sql_type));
        }
        if name == "mod"
            && let [left, right] = plain[..]
        {
            return Ok(Expr::binary(Binary::Remainder, self.expr(left, names)?, self.expr(right, names)?));
        }
        let Some(function) = Function::from_name(&name) else {
            return Err(SqlError::not_supported(format_args!("function {}", name.to_uppercase())));
        };
        let (least, most) = function.arguments();
        if !(least..=most).contains(&plain.len()) {
            let text = format!("Incorrect parameter count in the call to native function '{name}'");
            return Err(SqlError::new(codes::WRONG_PARAMETER_COUNT, text));
        }
        let bound: Result<Vec<Expr>, SqlError> =
            plain.iter().map(|argument| self.expr(argument, names)).collect();
        Ok(Expr::Call(function, bound?))
    }

    /// What the session or the moment says.
    fn of_session(&self, name: &str, arguments: &[&Ast]) -> Result<Option<Expr>, SqlError> {
        let session = self.session;
        let digits = || -> Result<u8, SqlError> {
            match arguments {
                [] => Ok(0),
                [Ast::Value(ast::ValueWithSpan { value: ast::Value::Number(digits, _), .. })] => {
                    let wrong = || {
                        SqlError::new(
                            codes::TOO_BIG_PRECISION,
                            format!("Too-big precision {digits} specified for '{name}'. Maximum is 6."),
                        )
                    };
                    digits.parse().ok().filter(|digits| *digits <= 6).ok_or_else(wrong)
                }
                _ => Err(SqlError::not_supported(format_args!("such arguments of {name}()"))),
            }
        };
        let value = match name {
            "now" | "current_timestamp" | "localtime" | "localtimestamp" | "utc_timestamp" | "sysdate" => {
                let unit = 10i64.pow(6 - u32::from(digits()?));
                self.volatile.set(true);
                let at = self.now.div_euclid(unit) * unit;
                return Ok(Some(Expr::Constant(Datum::DateTime(at), SqlType::DateTime(digits()?))));
            }
            _ if !arguments.is_empty() => return Ok(None),
            "curdate" | "current_date" | "utc_date" => Datum::Date(temporal::split(self.now).0),
            "unix_timestamp" => Datum::Int(self.now.div_euclid(1_000_000)),
            "database" | "schema" => {
                session.database.as_ref().map_or(Datum::Null, |name| Datum::Text(name.clone()))
            }
            "user" | "current_user" | "session_user" | "system_user" => "root@localhost".into(),
            "version" => VERSION.into(),
            "connection_id" => Datum::UInt(session.connection.into()),
            "last_insert_id" => Datum::UInt(session.last_insert_id),
            "row_count" => Datum::Int(session.row_count),
            "pi" => Datum::Double(std::f64::consts::PI),
            _ => return Ok(None),
        };
        self.volatile.set(true);
        Ok(Some(constant(&value)))
    }

    fn aggregate(
        &self,
        kind: AggregateKind,
        arguments: &[ast::FunctionArg],
        distinct: bool,
        names: &Names<'_>,
    ) -> Result<Expr, SqlError> {
        let Some(aggregates) = names.aggregates else {
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, "Invalid use of group function"));
        };
        // What is aggregated is of rows: no alias, no aggregate.
        let inner = Names { aggregates: None, aliases: &[], ..*names };
        let argument = match arguments {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard)]
                if kind == AggregateKind::Count && !distinct =>
            {
                None
            }
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr))] => Some(self.expr(expr, &inner)?),
            _ => return Err(SqlError::not_supported(format_args!("such arguments of {}()", kind.name()))),
        };
        if let Some(argument) = &argument
            && argument.is_constant()
            && reads_given(argument)
        {
            return Err(SqlError::not_supported("aggregates of an outer query"));
        }
        let aggregate = Aggregate { kind, argument, distinct };
        let mut aggregates = aggregates.borrow_mut();
        let index = aggregates.iter().position(|known| *known == aggregate).unwrap_or_else(|| {
            aggregates.push(aggregate);
            aggregates.len() - 1
        });
        let sql_type = aggregates[index].sql_type(&[]);
        Ok(Expr::Column(AGGREGATES + index, sql_type))
    }
}

fn reads_given(expr: &Expr) -> bool {
    let mut reads = matches!(expr, Expr::Given(..));
    expr.each_child(&mut |child| reads |= reads_given(child));
    reads
}

/// A number as it is written: a whole one, an exact one, or, with an exponent, a float.
pub(super) fn number(text: &str) -> Datum {
    let whole = text.parse::<i64>().map(Datum::Int).or_else(|_| text.parse().map(Datum::UInt)).ok();
    whole
        .or_else(|| Decimal::parse(text).map(Datum::Decimal))
        .unwrap_or_else(|| Datum::Double(text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX)))
}

fn binary_operator(op: &BinaryOperator) -> Result<Binary, SqlError> {
    Ok(match op {
        BinaryOperator::Plus => Binary::Add,
        BinaryOperator::Minus => Binary::Subtract,
        BinaryOperator::Multiply => Binary::Multiply,
        BinaryOperator::Divide => Binary::Divide,
        BinaryOperator::MyIntegerDivide => Binary::IntegerDivide,
        BinaryOperator::Modulo => Binary::Remainder,
        BinaryOperator::BitwiseOr => Binary::BitOr,
        BinaryOperator::BitwiseAnd => Binary::BitAnd,
        BinaryOperator::BitwiseXor => Binary::BitXor,
        BinaryOperator::PGBitwiseShiftLeft => Binary::ShiftLeft,
        BinaryOperator::PGBitwiseShiftRight => Binary::ShiftRight,
        BinaryOperator::Eq => Binary::Equal,
        BinaryOperator::NotEq => Binary::NotEqual,
        BinaryOperator::Lt => Binary::Less,
        BinaryOperator::LtEq => Binary::LessOrEqual,
        BinaryOperator::Gt => Binary::Greater,
        BinaryOperator::GtEq => Binary::GreaterOrEqual,
        BinaryOperator::Spaceship => Binary::NullSafeEqual,
        BinaryOperator::Xor => Binary::Xor,
        other => return Err(SqlError::not_supported(format_args!("operator {other}"))),
    })
}
