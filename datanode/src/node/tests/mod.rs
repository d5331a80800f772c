mod driver;
mod epochs;
mod fences;
mod lease;
mod leaving;
