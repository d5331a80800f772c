mod driver;
mod epochs;
mod fences;
mod frames;
mod lease;
mod leaving;
