//! The third of the walk that takes values: numbers, quantities, images, plain words.

use super::fill::{Walk, set};
use super::lexicon::Item;
use super::sense::{Act, Field, Role, Sense, Unit};
use super::slots::{Amount, AmountUnit, Way};
use super::values::{Shape, duration};

const RESOURCES: [Field; 6] =
    [Field::Cpu, Field::CpuRequest, Field::CpuLimit, Field::Memory, Field::MemoryRequest, Field::MemoryLimit];

impl Walk<'_> {
    /// A word by what it looks like: whether a slot took it.
    pub(super) fn value(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        let role = self.role(at);
        match &item.shape {
            Shape::Sign => true,
            Shape::Number { value, plus } => self.number(at, *value, *plus),
            Shape::Percent(value) => self.amount(role, *value, AmountUnit::Percent, false),
            Shape::Times(value) => self.amount(role, *value, AmountUnit::Times, false),
            Shape::Quantity { value, memory } => self.quantity(at, value, *memory),
            Shape::Pair => self.pair(&item.text),
            Shape::PortMap(port, target) if self.acts(&[Act::Expose]) => {
                set(&mut self.slots.port, *port, &mut self.slots.conflict, &item.text);
                set(&mut self.slots.target_port, *target, &mut self.slots.conflict, &item.text)
            }
            Shape::PortMap(..) => false,
            Shape::Image => self.takes_image() && self.image(at),
            Shape::Path(left, _) => {
                let names_kind = self.around.grammar.kind_of(&left.to_lowercase(), self.around.kinds).is_some();
                let image_here = self.field_here(at, &[Field::Image, Field::Tag])
                    || role == Some(Role::To)
                    || (self.creates() && matches!(role, None | Some(Role::With | Role::From | Role::Of)))
                    || (self.acts(&[Act::RollOut]) && role.is_none());
                if !names_kind && image_here && self.takes_image() { self.image(at) } else { self.word(at) }
            }
            Shape::Word => self.word(at),
        }
    }

    fn takes_image(&self) -> bool {
        self.creates() || self.act.is_none() || self.acts(&[Act::Set, Act::Update, Act::Roll, Act::RollOut, Act::Give])
    }

    fn image(&mut self, at: usize) -> bool {
        let text = &self.items[at].text;
        let image = if self.around.shouted { text.to_lowercase() } else { text.clone() };
        if self.field.is_some_and(|(field, _)| matches!(field, Field::Image | Field::Tag)) {
            self.field = None;
        }
        set(&mut self.slots.image, image, &mut self.slots.conflict, text)
    }

    /// Whether one of these fields waits for a value that stands here.
    fn field_here(&self, at: usize, fields: &[Field]) -> bool {
        self.field.is_some_and(|(field, chunk)| {
            fields.contains(&field)
                && (chunk == self.chunk(at) || matches!(self.role(at), Some(Role::To | Role::As | Role::By)))
        })
    }

    fn amount(&mut self, role: Option<Role>, value: f64, unit: AmountUnit, replicas: bool) -> bool {
        let way = match role {
            Some(Role::To) => Way::To,
            Some(Role::By | Role::Factor) => Way::By,
            None | Some(Role::With | Role::Of) => Way::Bare,
            _ => return false,
        };
        let unit = if role == Some(Role::Factor) { AmountUnit::Times } else { unit };
        if self.slots.mentions(&RESOURCES) && !replicas {
            self.slots.relative_resources = true;
            return true;
        }
        self.slots.amounts.push(Amount { value, unit, way, replicas });
        true
    }

    fn number(&mut self, at: usize, value: f64, plus: bool) -> bool {
        let role = self.role(at);
        let text = self.items[at].text.clone();
        let follows = self.items.get(at + 1).map_or(&[] as &[Sense], |item| item.senses.as_slice());
        let unit = follows.iter().find_map(|sense| if let Sense::Unit(unit) = sense { Some(*unit) } else { None });
        let field = follows.iter().find_map(|sense| if let Sense::Field(field) = sense { Some(*field) } else { None });
        if let Some(unit) = unit {
            return self.with_unit(at, value, unit);
        }
        match field {
            Some(Field::Replicas) => {
                let role = if plus { Some(Role::By) } else { role };
                let role = if matches!(role, Some(Role::On | Role::In | Role::As)) { None } else { role };
                self.used[at + 1] = self.amount(role, value, AmountUnit::Count, true);
                self.slots.fields.push(Field::Replicas);
                return self.used[at + 1];
            }
            Some(field) if RESOURCES.contains(&field) => return self.quantity(at, &text, false),
            _ => {}
        }
        if let Some((field, _)) =
            self.field.filter(|(field, _)| role == Some(Role::Of) || self.field_here(at, &[*field]))
        {
            let conflict = &mut self.slots.conflict;
            self.field = None;
            return match field {
                Field::Port => set(&mut self.slots.port, value, conflict, &text),
                Field::TargetPort => set(&mut self.slots.target_port, value, conflict, &text),
                Field::Revision => set(&mut self.slots.revision, value, conflict, &text),
                Field::Image | Field::Tag => set(&mut self.slots.image, text.clone(), conflict, &text),
                Field::Name => set(&mut self.slots.alias, text.clone(), conflict, &text),
                Field::Replicas => self.amount(role, value, AmountUnit::Count, true),
                field if RESOURCES.contains(&field) => {
                    self.field = Some((field, self.chunk(at)));
                    self.quantity(at, &text, false)
                }
                _ => false,
            };
        }
        match role {
            Some(Role::From) => true,
            Some(Role::To) if self.acts(&[Act::Undo, Act::Roll]) => {
                set(&mut self.slots.revision, value, &mut self.slots.conflict, &text)
            }
            Some(Role::On | Role::Of | Role::In) | None if self.acts(&[Act::Expose]) => {
                set(&mut self.slots.port, value, &mut self.slots.conflict, &text)
            }
            Some(Role::To | Role::By | Role::Factor) => {
                let role = if plus { Some(Role::By) } else { role };
                self.changes_amount() && self.amount(role, value, AmountUnit::Count, false)
            }
            None if self.changes_amount() => {
                let role = if plus { Some(Role::By) } else { None };
                self.amount(role, value, AmountUnit::Count, false)
            }
            _ => false,
        }
    }

    fn changes_amount(&self) -> bool {
        self.act.is_none()
            || self.acts(&[
                Act::Scale,
                Act::ScaleUp,
                Act::ScaleDown,
                Act::Double,
                Act::Triple,
                Act::Halve,
                Act::Set,
                Act::Make,
                Act::Run,
                Act::Give,
                Act::Update,
            ])
    }

    fn with_unit(&mut self, at: usize, value: f64, unit: Unit) -> bool {
        let role = self.role(at);
        let taken = match unit {
            Unit::Percent => self.amount(role, value, AmountUnit::Percent, false),
            Unit::Times => self.amount(role, value, AmountUnit::Times, false),
            unit if unit.is_time() => {
                let suffix = unit.suffix().filter(|_| self.acts(&[Act::Wait]));
                let timeout = suffix.map(|suffix| format!("{value}{suffix}"));
                timeout.is_some_and(|timeout| {
                    let text = timeout.clone();
                    set(&mut self.slots.timeout, timeout, &mut self.slots.conflict, &text)
                })
            }
            unit => {
                let quantity = format!("{value}{}", unit.suffix().unwrap_or_default());
                self.used[at + 1] = true;
                return self.quantity_before(at, at + 2, &quantity, unit.is_memory());
            }
        };
        self.used[at + 1] = taken;
        taken
    }

    fn quantity(&mut self, at: usize, value: &str, memory: bool) -> bool {
        if self.acts(&[Act::Wait]) {
            let timeout = duration(&self.items[at].text);
            return timeout.is_some_and(|timeout| {
                let text = timeout.clone();
                set(&mut self.slots.timeout, timeout, &mut self.slots.conflict, &text)
            });
        }
        self.quantity_before(at, at + 1, value, memory)
    }

    /// CPU or memory: by the field word behind it (`of` in between does not matter), by the one before it, or by its unit.
    fn quantity_before(&mut self, at: usize, behind: usize, value: &str, memory: bool) -> bool {
        let is_resource = |item: &Item| {
            item.senses.iter().find_map(|sense| match sense {
                Sense::Field(field) if RESOURCES.contains(field) => Some(*field),
                _ => None,
            })
        };
        let skipped =
            self.items.get(behind).is_some_and(|item| item.can(|sense| *sense == Sense::Role(Role::Of))) as usize;
        let following = self.items.get(behind + skipped).and_then(is_resource);
        let pending = self.field.map(|(field, _)| field).filter(|field| RESOURCES.contains(field));
        let field = match (following, pending, memory) {
            (Some(field), ..) => {
                self.used[behind..=behind + skipped].fill(true);
                field
            }
            (None, Some(field), _) => field,
            (None, None, true) => Field::Memory,
            (None, None, false) if value.ends_with('m') => Field::Cpu,
            _ => return false,
        };
        if self.role(at) == Some(Role::By) {
            self.slots.relative_resources = true;
            return true;
        }
        if matches!(self.role(at), Some(Role::In | Role::Until)) {
            return false;
        }
        if following.is_none() {
            self.field = None;
        }
        let keys: &[&'static str] = match field {
            Field::Cpu => &["cpuRequest", "cpuLimit"],
            Field::CpuRequest => &["cpuRequest"],
            Field::CpuLimit => &["cpuLimit"],
            Field::Memory => &["memoryRequest", "memoryLimit"],
            Field::MemoryRequest => &["memoryRequest"],
            _ => &["memoryLimit"],
        };
        for key in keys {
            let before = self.slots.resources.insert(key, value.to_owned());
            if before.is_some_and(|before| before != value) {
                self.slots.conflict.get_or_insert_with(|| value.to_owned());
            }
        }
        true
    }

    pub(super) fn fraction(&mut self, role: Option<Role>, part: f64) -> bool {
        match role {
            Some(Role::By) => self.amount(role, part * 100.0, AmountUnit::Percent, false),
            Some(Role::To) => self.amount(role, part, AmountUnit::Times, false),
            _ => false,
        }
    }

    /// A plain word: the value of a field, a name, a place, an image, by the role under which it stands.
    fn word(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        let text = self.name_text(item);
        let role = self.role(at);
        if self.acts(&[Act::Diagnose]) && self.slots.has_name() {
            return true;
        }
        if self.place_is_announced() {
            return self.place(at);
        }
        if self.field_here(at, &[Field::Image, Field::Tag]) && self.takes_image() {
            return self.image(at);
        }
        if let Some((field, chunk)) = self.field
            && chunk == self.chunk(at)
        {
            let slot = match field {
                Field::Container => Some(&mut self.slots.container),
                Field::Name => Some(&mut self.slots.alias),
                _ => None,
            };
            if let Some(slot) = slot {
                set(slot, text, &mut self.slots.conflict, &item.text);
                self.field = None;
                return true;
            }
            if matches!(field, Field::Env | Field::Data | Field::Label | Field::Port | Field::Revision | Field::Timeout)
            {
                self.is_decisive(at);
                return false;
            }
        }
        let no_target = self.slots.targets.is_empty();
        let known_place = self.around.input.namespaces.contains(&item.norm);
        match role {
            Some(Role::Of) if known_place && !no_target => self.place(at),
            None | Some(Role::Of | Role::Until) => self.name(at),
            Some(Role::On | Role::To) if self.kind_is_open() => self.name(at),
            Some(Role::On) if no_target && !known_place && !self.creates() => self.name(at),
            Some(Role::From) if self.creates() && self.slots.image.is_none() && !known_place => self.image(at),
            Some(Role::In | Role::On | Role::From) => self.place(at),
            Some(Role::To) => match self.act {
                Some(Act::RollOut | Act::Roll | Act::ScaleUp | Act::Give) if no_target => self.name(at),
                Some(Act::Update) => self.image(at),
                Some(Act::Set | Act::Make) if self.slots.mentions(&[Field::Image, Field::Tag]) => self.image(at),
                Some(Act::Deploy | Act::Run | Act::Create) => self.place(at),
                _ => false,
            },
            Some(Role::With) if self.slots.image.is_none() && (self.creates() || self.acts(&[Act::Update])) => {
                self.image(at)
            }
            Some(Role::As | Role::Called) => set(&mut self.slots.alias, text, &mut self.slots.conflict, &item.text),
            _ => false,
        }
    }
}
