// What a logit weighs in sampling, the same bits everywhere: whole numbers, and no multiply-add that a compiler may
// fuse
// (-ffp-contract=off, --fmad=false). Included inside one namespace per instruction set, after <cstdint> and <cstring>
// and where SSG_INLINE is defined.

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
  // The low bits of `shifted` are n, those of a double from 2^52 on a whole number.
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023 + 35) << 52;
  double power;
  memcpy(&power, &bits, sizeof(power));
  const double rounded = p * power + 0x1p52;
  memcpy(&bits, &rounded, sizeof(bits));
  return static_cast<int64_t>(bits & 0xfffffffffffff);
}
