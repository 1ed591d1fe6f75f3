// The weight of a logit in sampling. It has the same bits on every processor: it is a whole number, and the compilers
// may not fuse its multiply-adds (-ffp-contract=off, --fmad=false). To be included inside one namespace per instruction
// set, after <cstdint> and <cstring>, where SSG_INLINE is defined.

// round(2^35 exp(x)) for x <= 0.
SSG_INLINE int64_t weight_of(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42fefp-1;  // short enough that whole multiples of it are exact
  constexpr double kLn2Low = 0x1.473de6af278edp-34;
  constexpr double kWhole = 0x1.8p52;  // added and subtracted, it rounds to a whole number
  x = x > -40.0 ? x : -40.0;           // the weight is 0 from -25 on
  const double shifted = x * kLog2E + kWhole;
  const double n = shifted - kWhole;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * r * r + r + 1.0;
  // From 2^52 on, the low bits of a double are a whole number: those of `shifted` are n.
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023 + 35) << 52;
  double power;
  memcpy(&power, &bits, sizeof(power));
  const double rounded = p * power + 0x1p52;
  memcpy(&bits, &rounded, sizeof(bits));
  return static_cast<int64_t>(bits & 0xfffffffffffff);
}
