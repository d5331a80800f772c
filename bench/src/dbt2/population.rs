//! What a load puts: clause 4.3.3.

use twofold_proto::{random::Random, value::Value};

use super::{
    random::{Constants, data, digits, last_name, percent, text},
    schema::{
        CUSTOMER, DISTRICT, DISTRICTS, Definition, HISTORY, ITEM, NEW_ORDER, ORDER_LINE, ORDERS, STOCK,
        Sizes, WAREHOUSE,
    },
};

/// Values of a row, in the order of its table's columns: decimals by their last digit, times in microseconds since 1970.
pub type Row = Vec<Value>;

/// A part of the load that can be done beside the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A tenth of the items.
    Items(u64),
    /// A warehouse and its districts.
    Warehouse(u64),
    /// A tenth of a warehouse's stock.
    Stock(u64, u64),
    /// A district's customers, with their first payments.
    Customers(u64, u64),
    /// A district's orders.
    Orders(u64, u64),
}

/// Parts into which items and stock are cut.
const TENTHS: u64 = 10;

/// All that is to be loaded.
pub fn parts(sizes: Sizes) -> Vec<Part> {
    let of_warehouse = |warehouse| {
        let stock = (0..TENTHS).map(move |tenth| Part::Stock(warehouse, tenth));
        let districts = (1..=DISTRICTS).flat_map(move |district| {
            [Part::Customers(warehouse, district), Part::Orders(warehouse, district)]
        });
        std::iter::once(Part::Warehouse(warehouse)).chain(stock).chain(districts)
    };
    (0..TENTHS).map(Part::Items).chain((1..=sizes.warehouses).flat_map(of_warehouse)).collect()
}

/// How a load is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Population {
    /// How many rows.
    pub sizes: Sizes,
    /// Fixes all that is drawn.
    pub seed: u64,
    /// The constants of NURand.
    pub constants: Constants,
    /// When, in microseconds since 1970.
    pub now: i64,
}

fn tenth(all: u64, tenth: u64) -> std::ops::RangeInclusive<u64> {
    all * tenth / TENTHS + 1..=all * (tenth + 1) / TENTHS
}

fn int(number: u64) -> Value {
    Value::Int(number as i64)
}

impl Population {
    /// Hands out the rows of a part, each with its table.
    pub fn rows(&self, part: Part, put: &mut impl FnMut(&'static Definition, Row)) {
        let place = match part {
            Part::Items(tenth) => [0, 0, tenth],
            Part::Warehouse(warehouse) => [1, warehouse, 0],
            Part::Stock(warehouse, tenth) => [2, warehouse, tenth],
            Part::Customers(warehouse, district) => [3, warehouse, district],
            Part::Orders(warehouse, district) => [4, warehouse, district],
        };
        let stream = (place[0] << 48) | (place[1] << 8) | place[2];
        let random = &mut Random::new(self.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match part {
            Part::Items(part) => {
                tenth(self.sizes.items(), part).for_each(|id| put(&ITEM, item(random, id)));
            }
            Part::Warehouse(id) => self.warehouse(random, id, put),
            Part::Stock(warehouse, part) => {
                tenth(self.sizes.items(), part).for_each(|item| put(&STOCK, stock(random, warehouse, item)));
            }
            Part::Customers(warehouse, district) => self.customers(random, warehouse, district, put),
            Part::Orders(warehouse, district) => self.orders(random, warehouse, district, put),
        }
    }

    fn warehouse(&self, random: &mut Random, id: u64, put: &mut impl FnMut(&'static Definition, Row)) {
        // Ten a customer: 30,000.00 a district at full size.
        let ytd = self.sizes.customers() * 1000;
        let mut row = vec![int(id), text(random, 6, 10).into()];
        row.extend(address(random));
        row.extend([int(random.between(0, 2000)), int(DISTRICTS * ytd)]);
        put(&WAREHOUSE, row);
        for district in 1..=DISTRICTS {
            let mut row = vec![int(id), int(district), text(random, 6, 10).into()];
            row.extend(address(random));
            row.extend([int(random.between(0, 2000)), int(ytd), int(self.sizes.customers() + 1)]);
            put(&DISTRICT, row);
        }
    }

    fn customers(
        &self,
        random: &mut Random,
        warehouse: u64,
        district: u64,
        put: &mut impl FnMut(&'static Definition, Row),
    ) {
        let names = self.sizes.names();
        for id in 1..=self.sizes.customers() {
            let name = if id <= names { id - 1 } else { self.constants.name(random, names) };
            let mut row = vec![int(warehouse), int(district), int(id), text(random, 8, 16).into()];
            row.extend([Value::from("OE"), last_name(name).into()]);
            row.extend(address(random));
            let credit = if percent(random, 10) { "BC" } else { "GC" };
            row.extend([digits(random, 16).into(), Value::Int(self.now), credit.into(), int(5_000_000)]);
            row.extend([int(random.between(0, 5000)), Value::Int(-1000), int(1000), int(1), int(0)]);
            row.push(text(random, 300, 500).into());
            put(&CUSTOMER, row);
            let number = (district - 1) * self.sizes.customers() + id;
            let mut row =
                vec![int(warehouse), int(number), int(district), int(warehouse), int(district), int(id)];
            row.extend([Value::Int(self.now), int(1000), text(random, 12, 24).into()]);
            put(&HISTORY, row);
        }
    }

    fn orders(
        &self,
        random: &mut Random,
        warehouse: u64,
        district: u64,
        put: &mut impl FnMut(&'static Definition, Row),
    ) {
        let mut customers: Vec<u64> = (1..=self.sizes.customers()).collect();
        random.shuffle(&mut customers);
        for (id, customer) in (1..).zip(customers) {
            let delivered = id <= self.sizes.delivered();
            let (lines, carrier) = (random.between(5, 15), random.between(1, 10));
            let order = [int(warehouse), int(district), int(id)];
            let mut row = order.to_vec();
            row.extend([int(customer), Value::Int(self.now)]);
            row.extend([if delivered { int(carrier) } else { Value::Null }, int(lines), int(1)]);
            put(&ORDERS, row);
            for number in 1..=lines {
                let item = random.between(1, self.sizes.items());
                let amount = random.between(1, 999_999);
                let mut row = order.to_vec();
                row.extend([int(number), int(item), int(warehouse)]);
                row.extend([if delivered { Value::Int(self.now) } else { Value::Null }, int(5)]);
                row.extend([int(if delivered { 0 } else { amount }), text(random, 24, 24).into()]);
                put(&ORDER_LINE, row);
            }
            if !delivered {
                put(&NEW_ORDER, order.to_vec());
            }
        }
    }
}

fn address(random: &mut Random) -> [Value; 5] {
    let mut street = || text(random, 10, 20).into();
    let [first, second, city] = [street(), street(), street()];
    [first, second, city, text(random, 2, 2).into(), (digits(random, 4) + "11111").into()]
}

fn item(random: &mut Random, id: u64) -> Row {
    let image = int(random.between(1, 10_000));
    vec![int(id), image, text(random, 14, 24).into(), int(random.between(100, 10_000)), data(random).into()]
}

fn stock(random: &mut Random, warehouse: u64, item: u64) -> Row {
    let mut row = vec![int(warehouse), int(item), int(random.between(10, 100))];
    row.extend((0..DISTRICTS).map(|_| Value::from(text(random, 24, 24))));
    row.extend([int(0), int(0), int(0), data(random).into()]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_tables_columns_and_are_as_many_as_expected() {
        let sizes = Sizes { warehouses: 2, scale: 100 };
        let constants = Constants::of_load(&mut Random::new(1));
        let population = Population { sizes, seed: 7, constants, now: 0 };
        let mut all = Vec::new();
        for part in parts(sizes) {
            population.rows(part, &mut |table, row| {
                assert_eq!(row.len(), table.columns.len(), "{}", table.name);
                for ((name, sql_type), value) in table.columns.iter().zip(&row) {
                    let fits = sql_type.column_type().fit(value.borrowed());
                    assert!(value.is_null() || fits.is_ok(), "{name} {value:?}");
                }
                all.push((table.name, row));
            });
        }
        let count = |name| all.iter().filter(|(table, _)| *table == name).count();
        assert_eq!(["item", "stock", "warehouse", "district"].map(count), [1000, 2000, 2, 20]);
        assert_eq!(["customer", "history", "orders", "new_order"].map(count), [600, 600, 600, 180]);
        assert!((sizes.rows() * 95 / 100..sizes.rows() * 105 / 100).contains(&(all.len() as u64)));
        let mut again = Vec::new();
        population.rows(Part::Stock(2, 3), &mut |table, row| again.push((table.name, row)));
        assert!(again.iter().all(|row| all.contains(row)), "the same seed draws the same");
    }
}
