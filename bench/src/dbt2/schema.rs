//! The tables: TPC-C's nine (Standard Specification 5.11, clause 1.3), and one that says how they were loaded.

use std::fmt::Write as _;

use twofold_apinode::sql::types::{Declared, SqlType};
use twofold_client::{Column, NewTable};

/// Rows of a warehouse at full size.
const CUSTOMERS: u64 = 3000;
const ITEMS: u64 = 100_000;
/// Districts of a warehouse, whatever the scale.
pub const DISTRICTS: u64 = 10;
/// Last names that there are at full size.
const NAMES: u64 = 1000;
/// By how much sizes can be divided: ten customers are left in a district.
pub const SCALE_MAX: u64 = 300;

/// How many rows there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Warehouses.
    pub warehouses: u64,
    /// What the numbers of items and customers are divided by.
    pub scale: u64,
}

impl Sizes {
    /// Items; stock of each warehouse.
    pub fn items(self) -> u64 {
        ITEMS / self.scale
    }

    /// Customers of a district, and its orders after the load.
    pub fn customers(self) -> u64 {
        CUSTOMERS / self.scale
    }

    /// Orders of a district that are delivered after the load: 2,100 of 3,000.
    pub fn delivered(self) -> u64 {
        self.customers() * 7 / 10
    }

    /// Last names: the first so many customers of a district have one each, so every name is there.
    pub fn names(self) -> u64 {
        NAMES.min(self.customers() / 3)
    }

    /// About how many rows a load puts.
    pub fn rows(self) -> u64 {
        let district = 3 * self.customers() + (self.customers() - self.delivered()) + 10 * self.customers();
        self.items() + self.warehouses * (1 + DISTRICTS + self.items() + DISTRICTS * district)
    }
}

/// A table, as both drivers make it.
#[derive(Debug)]
pub struct Definition {
    /// Its name, without the database's.
    pub name: &'static str,
    /// Its columns: NOT NULL, unless their names are in `nullable`.
    pub columns: &'static [(&'static str, SqlType)],
    /// Columns that may be NULL.
    pub nullable: &'static [&'static str],
    /// The primary key. Its first column is the warehouse, and places the rows, but for tables that are the same everywhere.
    pub primary_key: &'static [&'static str],
    /// An ordered index, and its columns.
    pub index: Option<(&'static str, &'static [&'static str])>,
}

const fn integer(bytes: u8) -> SqlType {
    SqlType::Integer { bytes, unsigned: false }
}

const fn decimal(precision: u8, scale: u8) -> SqlType {
    SqlType::Decimal { precision, scale }
}

const ID: SqlType = integer(4);
const SMALL: SqlType = integer(2);
const TINY: SqlType = integer(1);
const MONEY: SqlType = decimal(12, 2);
const AMOUNT: SqlType = decimal(6, 2);
const RATE: SqlType = decimal(4, 4);
const TIME: SqlType = SqlType::DateTime(0);
const STREET: SqlType = SqlType::Varchar(20);
const STATE: SqlType = SqlType::Char(2);
const ZIP: SqlType = SqlType::Char(9);
const DIST: SqlType = SqlType::Char(24);

/// What was loaded: `warehouses`, `scale`, `c_last`, and `runs`, which counts the runs since.
pub static LOADED: Definition = Definition {
    name: "loaded",
    columns: &[("name", SqlType::Varchar(20)), ("value", integer(8))],
    nullable: &[],
    primary_key: &["name"],
    index: None,
};

/// Clause 1.3.1.
pub static WAREHOUSE: Definition = Definition {
    name: "warehouse",
    columns: &[
        ("w_id", ID),
        ("w_name", SqlType::Varchar(10)),
        ("w_street_1", STREET),
        ("w_street_2", STREET),
        ("w_city", STREET),
        ("w_state", STATE),
        ("w_zip", ZIP),
        ("w_tax", RATE),
        ("w_ytd", MONEY),
    ],
    nullable: &[],
    primary_key: &["w_id"],
    index: None,
};

/// As above, and so on.
pub static DISTRICT: Definition = Definition {
    name: "district",
    columns: &[
        ("d_w_id", ID),
        ("d_id", TINY),
        ("d_name", SqlType::Varchar(10)),
        ("d_street_1", STREET),
        ("d_street_2", STREET),
        ("d_city", STREET),
        ("d_state", STATE),
        ("d_zip", ZIP),
        ("d_tax", RATE),
        ("d_ytd", MONEY),
        ("d_next_o_id", ID),
    ],
    nullable: &[],
    primary_key: &["d_w_id", "d_id"],
    index: None,
};

/// Customers.
pub static CUSTOMER: Definition = Definition {
    name: "customer",
    columns: &[
        ("c_w_id", ID),
        ("c_d_id", TINY),
        ("c_id", ID),
        ("c_first", SqlType::Varchar(16)),
        ("c_middle", SqlType::Char(2)),
        ("c_last", SqlType::Varchar(16)),
        ("c_street_1", STREET),
        ("c_street_2", STREET),
        ("c_city", STREET),
        ("c_state", STATE),
        ("c_zip", ZIP),
        ("c_phone", SqlType::Char(16)),
        ("c_since", TIME),
        ("c_credit", SqlType::Char(2)),
        ("c_credit_lim", MONEY),
        ("c_discount", RATE),
        ("c_balance", MONEY),
        ("c_ytd_payment", MONEY),
        ("c_payment_cnt", ID),
        ("c_delivery_cnt", ID),
        ("c_data", SqlType::Varchar(500)),
    ],
    nullable: &[],
    primary_key: &["c_w_id", "c_d_id", "c_id"],
    index: Some(("customer_by_name", &["c_w_id", "c_d_id", "c_last", "c_first"])),
};

/// Payments. The specification gives them no key; a number is one here, which places them with the warehouse that was paid.
pub static HISTORY: Definition = Definition {
    name: "history",
    columns: &[
        ("h_w_id", ID),
        ("h_id", integer(8)),
        ("h_d_id", TINY),
        ("h_c_w_id", ID),
        ("h_c_d_id", TINY),
        ("h_c_id", ID),
        ("h_date", TIME),
        ("h_amount", AMOUNT),
        ("h_data", SqlType::Varchar(24)),
    ],
    nullable: &[],
    primary_key: &["h_w_id", "h_id"],
    index: None,
};

/// Orders that wait for their delivery.
pub static NEW_ORDER: Definition = Definition {
    name: "new_order",
    columns: &[("no_w_id", ID), ("no_d_id", TINY), ("no_o_id", ID)],
    nullable: &[],
    primary_key: &["no_w_id", "no_d_id", "no_o_id"],
    index: None,
};

/// Orders.
pub static ORDERS: Definition = Definition {
    name: "orders",
    columns: &[
        ("o_w_id", ID),
        ("o_d_id", TINY),
        ("o_id", ID),
        ("o_c_id", ID),
        ("o_entry_d", TIME),
        ("o_carrier_id", TINY),
        ("o_ol_cnt", TINY),
        ("o_all_local", TINY),
    ],
    nullable: &["o_carrier_id"],
    primary_key: &["o_w_id", "o_d_id", "o_id"],
    index: Some(("orders_by_customer", &["o_w_id", "o_d_id", "o_c_id", "o_id"])),
};

/// Their lines.
pub static ORDER_LINE: Definition = Definition {
    name: "order_line",
    columns: &[
        ("ol_w_id", ID),
        ("ol_d_id", TINY),
        ("ol_o_id", ID),
        ("ol_number", TINY),
        ("ol_i_id", ID),
        ("ol_supply_w_id", ID),
        ("ol_delivery_d", TIME),
        ("ol_quantity", TINY),
        ("ol_amount", AMOUNT),
        ("ol_dist_info", DIST),
    ],
    nullable: &["ol_delivery_d"],
    primary_key: &["ol_w_id", "ol_d_id", "ol_o_id", "ol_number"],
    index: None,
};

/// Items: the same for all warehouses.
pub static ITEM: Definition = Definition {
    name: "item",
    columns: &[
        ("i_id", ID),
        ("i_im_id", ID),
        ("i_name", SqlType::Varchar(24)),
        ("i_price", decimal(5, 2)),
        ("i_data", SqlType::Varchar(50)),
    ],
    nullable: &[],
    primary_key: &["i_id"],
    index: None,
};

/// What a warehouse has of each item.
pub static STOCK: Definition = Definition {
    name: "stock",
    columns: &[
        ("s_w_id", ID),
        ("s_i_id", ID),
        ("s_quantity", SMALL),
        ("s_dist_01", DIST),
        ("s_dist_02", DIST),
        ("s_dist_03", DIST),
        ("s_dist_04", DIST),
        ("s_dist_05", DIST),
        ("s_dist_06", DIST),
        ("s_dist_07", DIST),
        ("s_dist_08", DIST),
        ("s_dist_09", DIST),
        ("s_dist_10", DIST),
        ("s_ytd", ID),
        ("s_order_cnt", ID),
        ("s_remote_cnt", ID),
        ("s_data", SqlType::Varchar(50)),
    ],
    nullable: &[],
    primary_key: &["s_w_id", "s_i_id"],
    index: None,
};

/// All of them.
pub static TABLES: [&Definition; 10] =
    [&LOADED, &ITEM, &WAREHOUSE, &DISTRICT, &CUSTOMER, &HISTORY, &ORDERS, &NEW_ORDER, &ORDER_LINE, &STOCK];

impl Definition {
    /// The column that places the rows, where it is not all of the key.
    pub fn placed_by(&self) -> Option<&'static str> {
        (self.primary_key.len() > 1).then_some(self.primary_key[0])
    }

    fn is_nullable(&self, column: &str) -> bool {
        self.nullable.contains(&column)
    }

    /// CREATE TABLE. `partitioned`: with PARTITION BY KEY, so that rows of a warehouse are together.
    pub fn create(&self, partitioned: bool) -> String {
        let mut text = format!("CREATE TABLE {} (", self.name);
        for (column, sql_type) in self.columns {
            let null = if self.is_nullable(column) { "" } else { " NOT NULL" };
            write!(text, "{column} {sql_type}{null}, ").expect("a text takes all");
        }
        write!(text, "PRIMARY KEY ({})", self.primary_key.join(", ")).expect("a text takes all");
        if let Some((name, columns)) = self.index {
            write!(text, ", INDEX {name} ({})", columns.join(", ")).expect("a text takes all");
        }
        text.push(')');
        if let Some(column) = self.placed_by().filter(|_| partitioned) {
            write!(text, " PARTITION BY KEY ({column})").expect("a text takes all");
        }
        text
    }

    /// The same for the native client: SQL sees it as if it had made it.
    pub fn new_table(&self, name: String) -> NewTable {
        let mut table = NewTable::new(name);
        for &(name, sql_type) in self.columns {
            let mut column = Column::new(name, sql_type.column_type());
            column.nullable = self.is_nullable(name);
            column.declared = Declared::new(sql_type).to_string();
            table = table.column(column);
        }
        table = table.primary_key(self.primary_key.iter().copied()).index("PRIMARY", []);
        if let Some(column) = self.placed_by() {
            table = table.distribution_key([column]);
        }
        match self.index {
            Some((name, columns)) => table.index(name, columns.iter().copied()),
            None => table,
        }
    }

    /// Where its column is.
    ///
    /// # Panics
    /// If it has none of this name.
    #[cfg(test)]
    pub fn column(&self, name: &str) -> usize {
        let place = self.columns.iter().position(|(column, _)| *column == name);
        place.unwrap_or_else(|| panic!("table {} has no column {name}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warehouse_has_the_rows_of_the_specification() {
        let sizes = Sizes { warehouses: 1, scale: 1 };
        assert_eq!(
            (sizes.items(), sizes.customers(), sizes.delivered(), sizes.names()),
            (100_000, 3000, 2100, 1000)
        );
        assert_eq!(sizes.rows(), 100_000 + 1 + 10 + 100_000 + 30_000 * 2 + 30_000 + 9_000 + 300_000);
        let least = Sizes { scale: SCALE_MAX, ..sizes };
        assert_eq!((least.items(), least.customers(), least.delivered(), least.names()), (333, 10, 7, 3));
    }

    #[test]
    fn tables_are_told_in_sql() {
        let expected = "CREATE TABLE new_order (no_w_id int NOT NULL, no_d_id tinyint NOT NULL, no_o_id int NOT NULL, \
                        PRIMARY KEY (no_w_id, no_d_id, no_o_id)) PARTITION BY KEY (no_w_id)";
        assert_eq!(NEW_ORDER.create(true), expected);
        let orders = ORDERS.create(false);
        assert!(orders.contains("o_carrier_id tinyint, o_ol_cnt tinyint NOT NULL"), "{orders}");
        assert!(orders.ends_with("INDEX orders_by_customer (o_w_id, o_d_id, o_c_id, o_id))"), "{orders}");
        assert_eq!(LOADED.placed_by(), None);
    }
}
