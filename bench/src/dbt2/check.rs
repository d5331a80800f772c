//! The twelve consistency conditions (clause 3.3.2), from all rows as scans return them: no join or sum of the database is
//! trusted. It keeps some 100 bytes for each order and each customer, nothing for each line.

use std::collections::BTreeMap;

use super::{
    driver::{Numbers, Session},
    schema::{CUSTOMER, DISTRICT, Definition, HISTORY, NEW_ORDER, ORDER_LINE, ORDERS, Sizes, WAREHOUSE},
    transactions::Fault,
};

/// Violations of a condition that are told in full.
const TOLD_MAX: usize = 3;

/// The conditions, in words.
const CONDITIONS: [&str; 12] = [
    "W_YTD = sum of D_YTD",
    "D_NEXT_O_ID - 1 = newest order = newest new order",
    "new orders of a district have no gaps",
    "sum of O_OL_CNT = order lines of the district",
    "O_CARRIER_ID is null where the order is a new order, and only there",
    "O_OL_CNT = lines of the order",
    "OL_DELIVERY_D is null where O_CARRIER_ID of the order is, and only there",
    "W_YTD = sum of H_AMOUNT",
    "D_YTD = sum of H_AMOUNT",
    "C_BALANCE = sum of OL_AMOUNT delivered - sum of H_AMOUNT",
    "orders - new orders = 2,100 of 3,000 in each district, after the load",
    "C_BALANCE + C_YTD_PAYMENT = sum of OL_AMOUNT delivered",
];

/// What is read.
pub static READ: [(&Definition, &[&str]); 7] = [
    (&WAREHOUSE, &["w_id", "w_ytd"]),
    (&DISTRICT, &["d_w_id", "d_id", "d_ytd", "d_next_o_id"]),
    (&CUSTOMER, &["c_w_id", "c_d_id", "c_id", "c_balance", "c_ytd_payment"]),
    (&HISTORY, &["h_w_id", "h_d_id", "h_amount", "h_c_w_id", "h_c_d_id", "h_c_id"]),
    (&NEW_ORDER, &["no_w_id", "no_d_id", "no_o_id"]),
    (&ORDERS, &["o_w_id", "o_d_id", "o_id", "o_c_id", "o_carrier_id", "o_ol_cnt"]),
    (&ORDER_LINE, &["ol_w_id", "ol_d_id", "ol_o_id", "ol_delivery_d", "ol_amount"]),
];

/// Warehouse and district.
type Place = (i64, i64);
/// Warehouse, district and number.
type Key = (i64, i64, i64);

/// What became of a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// From 1.
    pub number: usize,
    /// In words.
    pub condition: &'static str,
    /// Whether it was looked at: condition 11 holds after a load only.
    pub applies: bool,
    /// How often it does not hold.
    pub violations: u64,
    /// The first ones, in words.
    pub told: Vec<String>,
}

impl Verdict {
    /// Whether it holds, as far as it applies.
    pub fn holds(&self) -> bool {
        self.violations == 0
    }
}

#[derive(Default)]
struct OrderSeen {
    customer: i64,
    delivered: bool,
    count: i64,
    /// Whether there was a row of it.
    there: bool,
    new: bool,
    lines: i64,
    dated: i64,
    dated_sum: i64,
}

#[derive(Default)]
struct CustomerSeen {
    balance: i64,
    paid: i64,
    there: bool,
    history: i64,
}

#[derive(Default)]
struct DistrictSeen {
    ytd: i64,
    next: i64,
    there: bool,
    history: i64,
    orders: i64,
    newest: Option<i64>,
    counts: i64,
    lines: i64,
    new: i64,
    /// The oldest and the newest that is new.
    new_range: Option<(i64, i64)>,
}

#[derive(Default)]
struct WarehouseSeen {
    ytd: i64,
    there: bool,
    districts: i64,
    history: i64,
}

/// All that is kept of the rows.
#[derive(Default)]
pub struct Check {
    warehouses: BTreeMap<i64, WarehouseSeen>,
    districts: BTreeMap<Place, DistrictSeen>,
    customers: BTreeMap<Key, CustomerSeen>,
    orders: BTreeMap<Key, OrderSeen>,
}

impl Check {
    /// Reads all tables.
    ///
    /// # Errors
    /// What the database has said.
    pub async fn read(
        session: &mut impl Session,
        mut progress: impl FnMut(&'static str),
    ) -> Result<Check, Fault> {
        let mut check = Check::default();
        for (table, columns) in READ {
            progress(table.name);
            session.scan(table, columns, &mut |row| check.see(table, row)).await?;
        }
        Ok(check)
    }

    /// Takes a row, with the columns that [`READ`] names. NULL where there should be none counts as 0.
    pub fn see(&mut self, table: &Definition, row: &Numbers) {
        let at = |place: usize| row.get(place).copied().flatten().unwrap_or(0);
        let is_null = |place: usize| row.get(place).is_none_or(Option::is_none);
        let (place, key) = ((at(0), at(1)), (at(0), at(1), at(2)));
        match table.name {
            "warehouse" => {
                let warehouse = self.warehouses.entry(at(0)).or_default();
                (warehouse.ytd, warehouse.there) = (at(1), true);
            }
            "district" => {
                let district = self.districts.entry(place).or_default();
                (district.ytd, district.next, district.there) = (at(2), at(3), true);
                self.warehouses.entry(at(0)).or_default().districts += at(2);
            }
            "customer" => {
                let customer = self.customers.entry(key).or_default();
                (customer.balance, customer.paid, customer.there) = (at(3), at(4), true);
            }
            "history" => {
                self.warehouses.entry(at(0)).or_default().history += at(2);
                self.districts.entry(place).or_default().history += at(2);
                self.customers.entry((at(3), at(4), at(5))).or_default().history += at(2);
            }
            "new_order" => {
                let district = self.districts.entry(place).or_default();
                let (low, high) = district.new_range.unwrap_or((at(2), at(2)));
                district.new_range = Some((low.min(at(2)), high.max(at(2))));
                district.new += 1;
                self.orders.entry(key).or_default().new = true;
            }
            "orders" => {
                let district = self.districts.entry(place).or_default();
                district.orders += 1;
                district.newest = district.newest.max(Some(at(2)));
                district.counts += at(5);
                let order = self.orders.entry(key).or_default();
                (order.customer, order.delivered, order.count) = (at(3), !is_null(4), at(5));
                order.there = true;
            }
            "order_line" => {
                self.districts.entry(place).or_default().lines += 1;
                let order = self.orders.entry(key).or_default();
                order.lines += 1;
                if !is_null(3) {
                    order.dated += 1;
                    order.dated_sum += at(4);
                }
            }
            other => unreachable!("{other} is not looked at"),
        }
    }

    /// What became of each condition; `loaded`: nothing was run since the load of these sizes.
    pub fn verdicts(&self, sizes: Sizes, loaded: bool) -> Vec<Verdict> {
        let mut found = Found::default();
        self.look_at_warehouses(&mut found);
        self.look_at_districts(&mut found, loaded.then(|| sizes.delivered() as i64));
        self.look_at_orders(&mut found);
        self.look_at_customers(&mut found);
        let verdict = |(place, (violations, told)): (usize, (u64, Vec<String>))| Verdict {
            number: place + 1,
            condition: CONDITIONS[place],
            applies: place + 1 != 11 || loaded,
            violations,
            told,
        };
        found.0.into_iter().enumerate().map(verdict).collect()
    }

    fn look_at_warehouses(&self, found: &mut Found) {
        for (id, warehouse) in self.warehouses.iter().filter(|(_, warehouse)| warehouse.there) {
            let WarehouseSeen { ytd, districts, history, .. } = warehouse;
            let which = || format!("warehouse {id}");
            found.compare(1, which, "W_YTD", *ytd, "sum of D_YTD", *districts);
            found.compare(8, which, "W_YTD", *ytd, "sum of H_AMOUNT", *history);
        }
    }

    fn look_at_districts(&self, found: &mut Found, delivered: Option<i64>) {
        for (place, district) in self.districts.iter().filter(|(_, district)| district.there) {
            let which = || format!("district {place:?}");
            let newest = district.newest.unwrap_or(0);
            found.compare(2, which, "D_NEXT_O_ID - 1", district.next - 1, "the newest order", newest);
            // Where all are delivered there is none: that the orders agree, condition 5 says.
            if let Some((oldest, new)) = district.new_range {
                found.compare(2, which, "D_NEXT_O_ID - 1", district.next - 1, "the newest new order", new);
                let span = new - oldest + 1;
                found.compare(3, which, "from oldest to newest new order", span, "new orders", district.new);
            }
            found.compare(4, which, "sum of O_OL_CNT", district.counts, "order lines", district.lines);
            found.compare(9, which, "D_YTD", district.ytd, "sum of H_AMOUNT", district.history);
            if let Some(delivered) = delivered {
                let done = district.orders - district.new;
                found.compare(11, which, "orders - new orders", done, "delivered by the load", delivered);
            }
        }
    }

    fn look_at_orders(&self, found: &mut Found) {
        for (key, order) in self.orders.iter().filter(|(_, order)| order.there) {
            let which = || format!("order {key:?}");
            let (carrier, new) = (i64::from(order.delivered), i64::from(!order.new));
            found.compare(5, which, "has a carrier", carrier, "is no new order", new);
            found.compare(6, which, "O_OL_CNT", order.count, "lines", order.lines);
            let dated = if order.delivered { order.lines } else { 0 };
            found.compare(
                7,
                which,
                "lines with a delivery date",
                order.dated,
                "lines that are delivered",
                dated,
            );
        }
    }

    fn look_at_customers(&self, found: &mut Found) {
        let mut delivered: BTreeMap<Key, i64> = BTreeMap::new();
        for (key, order) in self.orders.iter().filter(|(_, order)| order.there) {
            *delivered.entry((key.0, key.1, order.customer)).or_default() += order.dated_sum;
        }
        for (key, customer) in self.customers.iter().filter(|(_, customer)| customer.there) {
            let which = || format!("customer {key:?}");
            let sum = delivered.get(key).copied().unwrap_or(0);
            let CustomerSeen { balance, paid, history, .. } = *customer;
            found.compare(10, which, "C_BALANCE", balance, "delivered - sum of H_AMOUNT", sum - history);
            found.compare(12, which, "C_BALANCE + C_YTD_PAYMENT", balance + paid, "delivered", sum);
        }
    }
}

/// Violations by condition.
#[derive(Default)]
struct Found([(u64, Vec<String>); 12]);

impl Found {
    fn compare(
        &mut self,
        condition: usize,
        which: impl Fn() -> String,
        one: &str,
        is: i64,
        other: &str,
        should: i64,
    ) {
        if is == should {
            return;
        }
        let (violations, told) = &mut self.0[condition - 1];
        *violations += 1;
        if told.len() < TOLD_MAX {
            told.push(format!("{}: {one} {is}, {other} {should}", which()));
        }
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::{random::Random, value::Value};

    use super::*;
    use crate::dbt2::{
        population::{Population, Row, parts},
        random::Constants,
    };

    const SIZES: Sizes = Sizes { warehouses: 2, scale: 100 };

    type Rows = Vec<(&'static Definition, Row)>;

    fn loaded() -> Rows {
        let constants = Constants::of_load(&mut Random::new(1));
        let population = Population { sizes: SIZES, seed: 7, constants, now: 1 };
        let mut rows = Vec::new();
        for part in parts(SIZES) {
            population.rows(part, &mut |table, row| rows.push((table, row)));
        }
        rows
    }

    /// Which conditions do not hold.
    fn violated(rows: &Rows, loaded: bool) -> Vec<usize> {
        let mut check = Check::default();
        for (table, row) in rows {
            if let Some((_, columns)) = READ.iter().find(|(read, _)| read.name == table.name) {
                let number = |name: &&str| row[table.column(name)].as_integer().map(|number| number as i64);
                check.see(table, &columns.iter().map(number).collect());
            }
        }
        let verdicts = check.verdicts(SIZES, loaded);
        assert_eq!(verdicts.len(), 12);
        verdicts.iter().filter(|verdict| !verdict.holds()).map(|verdict| verdict.number).collect()
    }

    /// The place of the first row of a table for which this holds; columns by name.
    fn find(rows: &Rows, name: &str, fits: impl Fn(&dyn Fn(&str) -> Option<i64>) -> bool) -> usize {
        let found = rows.iter().position(|(table, row)| {
            let column = |name: &str| row[table.column(name)].as_integer().map(|number| number as i64);
            table.name == name && fits(&column)
        });
        found.expect("there is such a row")
    }

    fn change(rows: &mut Rows, place: usize, column: &str, by: i64) {
        let (table, row) = &mut rows[place];
        let value = &mut row[table.column(column)];
        *value = Value::Int(value.as_integer().map_or(0, |number| number as i64) + by);
    }

    #[test]
    fn what_is_loaded_is_consistent() {
        assert!(violated(&loaded(), true).is_empty());
    }

    /// One row is wrong, and exactly that condition does not hold. Sums hang together, so for some it is a row that should
    /// not be there, or one that is missing.
    #[test]
    fn a_row_that_is_wrong_violates_exactly_its_condition() {
        type Corrupt = fn(&mut Rows);
        let corruptions: [Corrupt; 12] = [
            |rows| {
                let place = find(rows, "district", |column| column("d_id") == Some(3));
                rows.remove(place);
            },
            |rows| {
                let place = find(rows, "district", |column| column("d_id") == Some(3));
                change(rows, place, "d_next_o_id", 1);
            },
            |rows| rows.push((&NEW_ORDER, vec![1.into(), 1.into(), 0.into()])),
            |rows| {
                let place = find(rows, "order_line", |_| true);
                let (table, mut row) = rows[place].clone();
                row[table.column("ol_o_id")] = 99_999.into();
                rows.push((table, row));
            },
            |rows| {
                let place = find(rows, "orders", |column| column("o_carrier_id").is_none());
                let (table, mut row) = rows[place].clone();
                row[table.column("o_id")] = 0.into();
                row[table.column("o_ol_cnt")] = 0.into();
                rows.push((table, row));
            },
            |rows| {
                let place = find(rows, "order_line", |column| column("ol_o_id") == Some(5));
                change(rows, place, "ol_o_id", 1);
            },
            |rows| {
                let place = find(rows, "order_line", |column| column("ol_o_id") == Some(5));
                let (table, row) = &mut rows[place];
                row[table.column("ol_delivery_d")] = Value::Null;
            },
            |rows| {
                let row = [1, 0, 11, 1, 1, 0, 0, 500].map(Value::from);
                rows.push((&HISTORY, row.into_iter().chain(["".into()]).collect()));
            },
            |rows| {
                let place = find(rows, "history", |column| column("h_d_id") == Some(3));
                change(rows, place, "h_d_id", 1);
            },
            |rows| {
                let place = find(rows, "history", |column| column("h_c_id") == Some(3));
                change(rows, place, "h_c_id", 1);
            },
            |rows| {
                let place = find(rows, "orders", |column| column("o_carrier_id").is_some());
                let (table, mut row) = rows[place].clone();
                row[table.column("o_id")] = 0.into();
                row[table.column("o_ol_cnt")] = 0.into();
                rows.push((table, row));
            },
            |rows| {
                let place = find(rows, "customer", |_| true);
                change(rows, place, "c_ytd_payment", -1);
            },
        ];
        for (condition, corrupt) in (1..).zip(corruptions) {
            let mut rows = loaded();
            corrupt(&mut rows);
            assert_eq!(violated(&rows, condition == 11), [condition]);
        }
    }

    #[test]
    fn sums_of_nothing_are_looked_at() {
        let mut rows = loaded();
        rows.retain(|(table, _)| table.name != "history");
        assert_eq!(violated(&rows, false), [8, 9, 10]);
        let mut rows = loaded();
        rows.retain(|(table, _)| table.name != "order_line");
        assert_eq!(violated(&rows, false), [4, 6]);
    }
}
