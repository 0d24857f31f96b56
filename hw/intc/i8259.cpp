// Intel 8259A. Source: its data sheet (order 231468); ELCR: 82371SB (PIIX3) §2.6. Not modelled: 8080 mode, buffered mode, LTIM (PCs
// choose edge or level by ELCR). An edge stays latched when its line falls before the INTA, which guests with pulsed sources need.
#include "hw/intc/i8259.h"

#include <bit>

#include "src/base/bits.h"

namespace vmm::hw {

constexpr Field I8259::properties[] = {
    field<&I8259::iobase_>("iobase", "First of two I/O ports."),
    field<&I8259::elcr_addr_>("elcr_addr", "I/O port of the edge/level control register; 4294967295 for none."),
    field<&I8259::elcr_mask_>("elcr_mask", "Lines that may be level-triggered."),
    field<&I8259::master_>("master", "The controller that the CPU is connected to."),
};
constexpr Field I8259::state[] = {
    field<&I8259::inputs_>("last_irr", "levels of the inputs"),
    field<&I8259::irr_>("irr", "requests"),
    field<&I8259::imr_>("imr", "mask"),
    field<&I8259::isr_>("isr", "in service"),
    field<&I8259::lowest_plus_one_>("priority_add", "line of highest priority", {.max = 7}),
    field<&I8259::vector_base_>("irq_base", "first vector"),
    field<&I8259::read_isr_>("read_reg_select", "reads give ISR"),
    field<&I8259::poll_>("poll", "next read polls"),
    field<&I8259::special_mask_>("special_mask", "special mask mode"),
    field<&I8259::init_step_>("init_state", "next initialisation word", {.max = 3}),
    field<&I8259::auto_eoi_>("auto_eoi", "automatic end of interrupt"),
    field<&I8259::rotate_on_auto_eoi_>("rotate_on_auto_eoi", "and rotate"),
    field<&I8259::special_fully_nested_>("special_fully_nested_mode", "special fully nested mode"),
    field<&I8259::init4_>("init4", "ICW4 follows"),
    field<&I8259::single_>("single_mode", "no ICW3"),
    field<&I8259::elcr_>("elcr", "level-triggered lines"),
};
constinit const TypeInfo I8259::type{
    .name = "isa-i8259",
    .doc = "8259A interrupt controller.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<I8259>,
    .sample = "isa-i8259,iobase=32",
    .user_creatable = false,
};
static Registered registered{I8259::type};

Result<> I8259::realize() {
  if (vm::Irqchip* const chips = machine().irqchip(); chips && chips->full()) twin_ = chips;
  if (iobase_ > 0xfffe) return fail("'iobase' takes 0 to 65534, not {}", iobase_);
  ports_.init_io<&I8259::read, &I8259::write>(*this, "pic", 2, {.min = 1, .max = 1});
  map_ports(ports_, static_cast<u16>(iobase_));
  if (elcr_addr_ <= 0xffff) {
    elcr_port_.init_io<&I8259::elcr_read, &I8259::elcr_write>(*this, "elcr", 1, {.min = 1, .max = 1});
    map_ports(elcr_port_, static_cast<u16>(elcr_addr_));
  }
  return map(intr_);
}

void I8259::init_reset() {
  inputs_ = 0;
  irr_ &= elcr_;  // level-triggered lines are still there
  imr_ = isr_ = lowest_plus_one_ = vector_base_ = init_step_ = 0;
  read_isr_ = poll_ = special_mask_ = auto_eoi_ = rotate_on_auto_eoi_ = special_fully_nested_ = init4_ = single_ = false;
}

void I8259::reset() {
  elcr_ = 0;
  init_reset();
  push();
}

void I8259::before_save() {
  if (!twin_) return;
  const vm::PicImage k = twin_->pic(!master_);
  inputs_ = k.last_irr, irr_ = k.irr, imr_ = k.imr, isr_ = k.isr, lowest_plus_one_ = k.priority_add, vector_base_ = k.irq_base;
  init_step_ = k.init_state, elcr_ = k.elcr, read_isr_ = k.read_reg_select, poll_ = k.poll, special_mask_ = k.special_mask;
  auto_eoi_ = k.auto_eoi, rotate_on_auto_eoi_ = k.rotate_on_auto_eoi, special_fully_nested_ = k.special_fully_nested_mode;
  init4_ = k.init4;
}

void I8259::push() const {
  if (!twin_) return;
  twin_->set_pic(!master_, {.last_irr = inputs_,
                            .irr = irr_,
                            .imr = imr_,
                            .isr = isr_,
                            .priority_add = lowest_plus_one_,
                            .irq_base = vector_base_,
                            .init_state = init_step_,
                            .elcr = elcr_,
                            .elcr_mask = elcr_mask_,
                            .read_reg_select = read_isr_,
                            .poll = poll_,
                            .special_mask = special_mask_,
                            .auto_eoi = auto_eoi_,
                            .rotate_on_auto_eoi = rotate_on_auto_eoi_,
                            .special_fully_nested_mode = special_fully_nested_,
                            .init4 = init4_});
}

Result<> I8259::after_load() {
  push();
  return {};
}

void I8259::set_input(unsigned line, bool level) {
  const u8 mask = 1 << (line & 7);
  if (elcr_ & mask) {
    if (level)
      irr_ |= mask, inputs_ |= mask;
    else
      irr_ &= ~mask, inputs_ &= ~mask;
  } else if (level) {
    if (!(inputs_ & mask)) irr_ |= mask;
    inputs_ |= mask;
  } else {
    inputs_ &= ~mask;
    if (line == 2 && slave_) irr_ &= ~mask;  // the slave's request has gone; a latched one would only end as its spurious line 7
  }
  update();
}

// How far `lines`' first one is from the line of highest priority; 8 if there is none.
int I8259::first_by_priority(u8 lines) const { return lines ? std::countr_zero(std::rotr(lines, lowest_plus_one_)) : 8; }

int I8259::highest_request() const {
  const int wanted = first_by_priority(irr_ & ~imr_);
  if (wanted == 8) return -1;
  u8 serving = isr_;
  if (special_mask_) serving &= ~imr_;
  if (special_fully_nested_ && master_) serving &= ~(1 << 2);  // the slave may interrupt its own service
  return wanted < first_by_priority(serving) ? (wanted + lowest_plus_one_) & 7 : -1;
}

void I8259::update() { intr_.set(!twin_ && highest_request() >= 0); }

void I8259::take(unsigned line) {
  const u8 mask = 1 << line;
  if (auto_eoi_) {
    if (rotate_on_auto_eoi_) lowest_plus_one_ = (line + 1) & 7;
  } else {
    isr_ |= mask;
  }
  if (!(elcr_ & mask)) irr_ &= ~mask;
}

u8 I8259::acknowledge() {
  const int line = highest_request();
  u8 vector;
  if (line < 0) {
    vector = vector_base_ + 7;  // the request has gone: spurious, nothing in service
  } else {
    take(line);
    vector = line == 2 && slave_ ? slave_->acknowledge() : static_cast<u8>(vector_base_ + line);
  }
  update();
  return vector;
}

void I8259::command_written(u8 value) {
  if (value & 0x10) {  // ICW1
    init_reset();
    init_step_ = 1;
    init4_ = value & 1;
    single_ = value & 2;
  } else if (value & 0x08) {  // OCW3
    if (value & 4) poll_ = true;
    if (value & 2) read_isr_ = value & 1;
    if (value & 0x40) special_mask_ = value >> 5 & 1;
  } else {  // OCW2
    const u8 command = value >> 5, line = value & 7;
    switch (command) {
      case 0:
      case 4: rotate_on_auto_eoi_ = command == 4; break;
      case 1:
      case 5: {
        const int first = first_by_priority(special_mask_ ? isr_ & ~imr_ : isr_);
        if (first == 8) break;
        const unsigned ended = (first + lowest_plus_one_) & 7;
        isr_ &= ~(1 << ended);
        if (command == 5) lowest_plus_one_ = (ended + 1) & 7;
        break;
      }
      case 3: isr_ &= ~(1 << line); break;
      case 6: lowest_plus_one_ = (line + 1) & 7; break;
      case 7:
        isr_ &= ~(1 << line);
        lowest_plus_one_ = (line + 1) & 7;
        break;
      default: break;
    }
  }
}

void I8259::data_written(u8 value) {
  switch (init_step_) {
    case 0: imr_ = value; break;
    case 1:
      vector_base_ = value & 0xf8;
      init_step_ = single_ ? init4_ ? 3 : 0 : 2;
      break;
    case 2: init_step_ = init4_ ? 3 : 0; break;
    default:
      special_fully_nested_ = value >> 4 & 1;
      auto_eoi_ = value >> 1 & 1;
      init_step_ = 0;
  }
}

void I8259::write(u64 offset, unsigned, u64 value) {
  if (offset == 0)
    command_written(static_cast<u8>(value));
  else
    data_written(static_cast<u8>(value));
  update();
}

u64 I8259::read(u64 offset, unsigned) {
  if (poll_) {  // an acknowledge by reading
    poll_ = false;
    const int line = highest_request();
    if (line >= 0) take(line);
    update();
    return line >= 0 ? 0x80 | line : 0;
  }
  return offset == 0 ? read_isr_ ? isr_ : irr_ : imr_;
}

u64 I8259::elcr_read(u64, unsigned) { return elcr_; }
void I8259::elcr_write(u64, unsigned, u64 value) { elcr_ = value & elcr_mask_; }

std::string I8259::describe() const {
  return format("pic{}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} elcr={:02x} fnm={}\n", master_ ? 0 : 1, irr_,
                imr_, isr_, lowest_plus_one_, vector_base_, int{read_isr_}, elcr_, int{special_fully_nested_});
}

// --- The pair ----------------------------------------------------------------------------------------------------------------------
Result<> PicPair::make(vm::Machine& machine, IsaBus& bus) {
  master_ = make_device<I8259>(machine);
  slave_ = make_device<I8259>(machine);
  const struct {
    I8259& chip;
    u32 iobase, elcr_addr, elcr_mask;
    bool master;
  } chips[] = {{*master_, 0x20, 0x4d0, 0xf8, true}, {*slave_, 0xa0, 0x4d1, 0xde, false}};
  for (const auto& c : chips) {
    TRY(c.chip.set("iobase", c.iobase));
    TRY(c.chip.set("elcr_addr", c.elcr_addr));
    TRY(c.chip.set("elcr_mask", c.elcr_mask));
    TRY(c.chip.set("master", c.master));
    TRY(c.chip.attach(&bus));
  }
  master_->set_slave(slave_.get());
  slave_->intr().connect(*master_, 2);
  intr_sink_ = std::make_unique<IrqCall>([this](unsigned, bool level) {
    if (intr_level_.exchange(level, std::memory_order_acq_rel) != level && changed_) changed_(level);
  });
  master_->intr().connect(*intr_sink_, 0);
  return {};
}

PicPair::~PicPair() {
  if (!slave_ || !master_) return;
  slave_->intr().disconnect();
  master_->intr().disconnect();
  master_->set_slave(nullptr);
}

std::string PicPair::describe_counts() const {
  std::string out = "IRQ statistics for isa-i8259:\n";
  for (unsigned i = 0; i < raised_.size(); i++)
    if (raised_[i]) out += format("{:2}: {}\n", i, raised_[i]);
  return out;
}
std::string PicPair::describe() const { return slave_->describe() + master_->describe(); }

}  // namespace vmm::hw
