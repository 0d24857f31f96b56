// Sources: translator.md §4.1 (forms P1 and P2, order of the displacement), SDM vol. 1 §3.7.5 (addressing modes).
#include "accel/tcg/host/x64/access.h"

#include <utility>

#include "accel/tcg/mem/tables.h"

namespace vmm::tcg::x64 {

Address address_of(const ir::Native& n) {
  return {.base = n.base,
          .index = n.index,
          .scale = n.scale,
          .disp = n.disp,
          .ip_relative = n.ip_relative,
          .segment = n.segment,
          .width = n.address_width};
}

namespace {
bool none(u8 r) { return r == ir::no_reg; }
}  // namespace

// Everything that one lea from pinned registers can name, with room for the size in the displacement.
bool AccessEmitter::is_direct(const Address& a, unsigned size) const {
  return layout_.code64 && a.width == 8 && none(a.segment) && !a.ip_relative && !(none(a.base) && none(a.index)) &&
         (none(a.base) || !spilled(a.base)) && (none(a.index) || !spilled(a.index)) && fits(a.disp) && fits(a.disp + size);
}

bool AccessEmitter::build(const Address& a) {
  bool used_scratch = false;
  const u8 held = std::exchange(held_, ir::no_reg);
  const bool wide = a.width == 8 && layout_.code64;
  const auto lea = [&](const Mem& m) { wide ? out_.lea(scratch2, m) : out_.lea32(scratch2, m); };
  const Mem segment_base = none(a.segment) ? Mem{} : in_frame(layout_.seg_base + 8u * a.segment);

  if (a.ip_relative) {
    out_.mov(scratch2, in_frame(offsetof(FrameHead, ip_page)));
    i64 left = a.disp;
    while (left != 0) {
      const i32 step = fits(left) ? static_cast<i32>(left) : left > 0 ? 0x7fff'ffff : static_cast<i32>(0x8000'0000);
      lea({.base = scratch2, .disp = step});
      left -= step;
    }
  } else if (none(a.base) && none(a.index)) {
    if (!none(a.segment) && wide && fits(a.disp)) {
      out_.mov(scratch2, segment_base);
      if (a.disp) out_.lea(scratch2, {.base = scratch2, .disp = static_cast<i32>(a.disp)});
      return false;
    }
    out_.mov(scratch2, wide ? static_cast<u64>(a.disp) : static_cast<u32>(a.disp));
  } else {
    if (!none(a.segment) && wide && none(a.index) && !spilled(a.base)) {
      out_.mov(scratch2, segment_base);
      out_.lea(scratch2, {.base = scratch2, .index = pin(a.base), .disp = static_cast<i32>(a.disp)});
      return false;
    }
    Mem m{.scale = a.scale, .disp = static_cast<i32>(a.disp)};
    if (!none(a.base) && spilled(a.base)) {
      if (a.base != held) out_.mov(scratch2, spill_slot(a.base));
      m.base = scratch2;
    } else if (!none(a.base)) {
      m.base = pin(a.base);
    }
    if (!none(a.index) && spilled(a.index)) {
      if (none(a.base) || a.index == a.base) {  // scratch2 is free, or holds it already
        if (none(a.base)) out_.mov(scratch2, spill_slot(a.index));
        m.index = scratch2;
      } else if (!none(a.base) && !spilled(a.base)) {
        out_.mov(scratch2, spill_slot(a.index));
        m.index = scratch2;
      } else {
        out_.mov(scratch, spill_slot(a.index));
        m.index = scratch;
        used_scratch = true;
      }
    } else if (!none(a.index)) {
      m.index = pin(a.index);
    }
    if (!wide || m.base != scratch2 || m.index != Reg::none || m.disp) lea(m);
  }
  if (!none(a.segment)) {
    out_.mov(scratch, segment_base);
    used_scratch = true;
    if (layout_.code64)
      out_.lea(scratch2, {.base = scratch2, .index = scratch});
    else
      out_.lea32(scratch2, {.base = scratch2, .index = scratch});
  }
  return used_scratch;
}

void AccessEmitter::effective(const Address& address, Reg to, bool wide) {
  Address plain = address;
  plain.segment = ir::no_reg;
  const bool base_ok = none(plain.base) || !spilled(plain.base), index_ok = none(plain.index) || !spilled(plain.index);
  if (!plain.ip_relative && base_ok && index_ok && fits(plain.disp) && !(none(plain.base) && none(plain.index))) {
    const Mem m{.base = none(plain.base) ? Reg::none : pin(plain.base),
                .index = none(plain.index) ? Reg::none : pin(plain.index),
                .scale = plain.scale,
                .disp = static_cast<i32>(plain.disp)};
    wide&& plain.width == 8 ? out_.lea(to, m) : out_.lea32(to, m);
    return;
  }
  build(plain);
  wide ? out_.mov(to, scratch2) : out_.mov32(to, scratch2);
}

Mem AccessEmitter::check(const Address& a, unsigned size, bool write, MissSite& site) {
  site.address = a;
  site.size = static_cast<u16>(size);
  site.write = write;
  site.direct = is_direct(a, size);
  if (!site.direct) {
    site.kept = build(a);
    if (site.kept) out_.mov(saved_slot(0), scratch2);
    look_up(scratch2, 0, true, size, write, site);
    if (site.kept) {
      out_.mov(scratch2, saved_slot(0));
    } else if (layout_.code64 && a.width == 8 && none(a.segment) && none(a.index) && !none(a.base) && spilled(a.base) && fits(a.disp)) {
      out_.mov(scratch2, spill_slot(a.base));
      return {.base = scratch2, .index = scratch, .disp = static_cast<i32>(a.disp)};
    } else {
      build(a);
    }
    return {.base = scratch2, .index = scratch};
  }
  const i32 disp = static_cast<i32>(a.disp);
  if (none(a.index)) {
    look_up(pin(a.base), disp, false, size, write, site);
    return {.base = pin(a.base), .index = scratch, .disp = disp};
  }
  const Reg base = none(a.base) ? Reg::none : pin(a.base);
  out_.lea(scratch2, {.base = base, .index = pin(a.index), .scale = a.scale, .disp = disp});
  look_up(scratch2, 0, true, size, write, site);
  if (base != Reg::none) out_.lea(scratch, {.base = scratch, .index = base});
  return {.base = scratch, .index = pin(a.index), .scale = a.scale, .disp = disp};
}

Mem AccessEmitter::check_built(unsigned size, bool write, MissSite& site) {
  site.size = static_cast<u16>(size);
  site.write = write;
  site.kept = true;
  out_.mov(saved_slot(0), scratch2);
  look_up(scratch2, 0, true, size, write, site);
  out_.mov(scratch2, saved_slot(0));
  return {.base = scratch2, .index = scratch};
}

Mem AccessEmitter::check_group(const Address& low, unsigned extent, bool write, i64 offset, bool by_addend, MissSite& site) {
  const i32 ahead = static_cast<i32>(offset);
  site.address = low;
  site.size = static_cast<u16>(extent);
  site.write = write;
  site.group = true;
  site.direct = is_direct(low, extent);
  if (!site.direct) {
    site.kept = build(low);
    if (site.kept) out_.mov(saved_slot(0), scratch2);
    look_up(scratch2, 0, true, extent, write, site);
    if (site.kept)
      out_.mov(scratch2, saved_slot(0));
    else
      build(low);
    out_.lea(scratch, {.base = scratch, .index = scratch2});
    return {.base = scratch, .disp = ahead};
  }
  const i32 disp = static_cast<i32>(low.disp);
  if (by_addend) {
    look_up(pin(low.base), disp, false, extent, write, site);
    return {.base = pin(low.base), .index = scratch, .disp = disp + ahead};
  }
  const Reg base = none(low.base) ? Reg::none : pin(low.base);
  const Mem first{.base = base, .index = none(low.index) ? Reg::none : pin(low.index), .scale = low.scale, .disp = disp};
  out_.lea(scratch2, first);
  look_up(scratch2, 0, true, extent, write, site);
  out_.lea(scratch2, first);
  out_.lea(scratch, {.base = scratch, .index = scratch2});
  return {.base = scratch, .disp = ahead};
}

Mem AccessEmitter::member(const Address& a, i64 offset, bool by_addend, Reg window) {
  if (by_addend) return {.base = pin(a.base), .index = window, .disp = static_cast<i32>(a.disp)};
  return {.base = window, .disp = static_cast<i32>(offset)};
}

void AccessEmitter::recompute(const MissSite& site) {
  const Address& a = site.address;
  if (site.direct)
    out_.lea(scratch2, {.base = none(a.base) ? Reg::none : pin(a.base),
                        .index = none(a.index) ? Reg::none : pin(a.index),
                        .scale = a.scale,
                        .disp = static_cast<i32>(a.disp)});
  else if (site.kept)
    out_.mov(scratch2, saved_slot(0));
  else
    build(a);
}

void AccessEmitter::slot_number(Reg first, i32 disp, bool first_is_scratch2, unsigned size) {
  if (size == 1) {
    Reg from = first;
    if (disp) out_.lea(scratch, {.base = first, .disp = disp}), from = scratch;
    page_number(scratch, from);
    return add_pages({.base = scratch, .index = scratch});
  }
  const i32 last = static_cast<i32>(size) - 1;
  if (first_is_scratch2) {
    out_.lea(scratch, {.base = scratch2, .disp = last});
    page_number(scratch, scratch);
    page_number(scratch2, scratch2);
  } else {
    out_.lea(scratch2, {.base = first, .disp = disp + last});
    Reg from = first;
    if (disp) out_.lea(scratch, {.base = first, .disp = disp}), from = scratch;
    page_number(scratch, from);
    page_number(scratch2, scratch2);
  }
  add_pages({.base = scratch, .index = scratch2});
}

void AccessEmitter::in_one_page(i32 ahead) {
  out_.lea(scratch, {.base = scratch2, .disp = ahead});
  page_number(scratch, scratch);
  page_number(scratch2, scratch2);
  out_.not_(scratch2);
  add_pages({.base = scratch, .index = scratch2, .disp = 1});
}

void WideAccess::look_up(Reg first, i32 disp, bool first_is_scratch2, unsigned size, bool write, MissSite& site) {
  slot_number(first, disp, first_is_scratch2, size);
  if (write) {
    out_.not_(scratch);
    out_.mov(scratch, {.index = scratch, .scale = 3, .gs = true});
  } else {
    out_.mov(scratch, {.index = scratch, .scale = 3, .disp = static_cast<i32>(header_bytes), .gs = true});
  }
  if (guess_) {  // the access waits for the guess alone, not for the address and the table
    out_.mov(scratch2, in_frame(guess_));
    out_.not_(scratch);
    out_.lea(scratch, {.base = scratch, .index = scratch2, .disp = 1});
    const usize same = out_.jrcxz();
    site.guess = guess_;
    site.island = out_.jmp();
    site.has_island = true;
    (void)out_.bind8(same, out_.here());
    out_.mov(scratch, scratch2);
    site.resume = out_.here();
    return;
  }
  site.jrcxz_at = out_.jrcxz();
  site.resume = out_.here();
}

void TaggedAccess::look_up(Reg first, i32 disp, bool first_is_scratch2, unsigned size, bool write, MissSite& site) {
  slot_number(first, disp, first_is_scratch2, size);
  const auto entry = [&](u64 offset) { return Mem{.index = scratch, .scale = 3, .disp = static_cast<i32>(offset), .gs = true}; };
  out_.mov(scratch2, scratch);
  out_.pext(scratch, scratch, in_frame(offsetof(FrameHead, tag_mask)));
  out_.mov(saved_slot(11), scratch);
  out_.mov(scratch, entry(write ? tagged_write_tags : tagged_read_tags));
  out_.lea(scratch, {.base = scratch, .index = scratch2});
  const usize hit = out_.jrcxz();
  site.island = out_.jmp();
  site.has_island = true;
  (void)out_.bind8(hit, out_.here());
  out_.mov(scratch, saved_slot(11));
  out_.mov(scratch, entry(write ? tagged_write_addends : tagged_read_addends));
  site.resume = out_.here();
}

}  // namespace vmm::tcg::x64
