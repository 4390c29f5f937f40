//! The rules: their names, which are BuildKit's, and what they are for. Data.

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is described by its description, which the user reads as well")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 22] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
    ];

    /// The name by which `# check=skip=` knows it.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What it asks for, and why.
    pub fn description(self) -> &'static str {
        self.words().1
    }

    /// Whether it counts only where `experimental=` asks for it.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Rule::StageNameCasing => ("StageNameCasing", "names of stages are lower case: they are compared without case"),
            Rule::FromAsCasing => ("FromAsCasing", "FROM and AS are written in the same case"),
            Rule::NoEmptyContinuation => {
                ("NoEmptyContinuation", "an empty line inside an instruction is skipped today and may end it in a later version")
            }
            Rule::ConsistentInstructionCasing => {
                ("ConsistentInstructionCasing", "all instructions of a file are written in the same case, upper or lower")
            }
            Rule::DuplicateStageName => ("DuplicateStageName", "names of stages are unique: a later one hides the earlier"),
            Rule::ReservedStageName => ("ReservedStageName", "scratch and context mean something else and name no stage"),
            Rule::JsonArgsRecommended => {
                ("JSONArgsRecommended", "CMD and ENTRYPOINT in JSON form get signals; in shell form the shell gets them")
            }
            Rule::MaintainerDeprecated => {
                ("MaintainerDeprecated", "MAINTAINER is deprecated: the label org.opencontainers.image.authors replaces it")
            }
            Rule::UndefinedArgInFrom => {
                ("UndefinedArgInFrom", "FROM uses only arguments that an ARG above the first FROM declares")
            }
            Rule::WorkdirRelativePath => {
                ("WorkdirRelativePath", "the first WORKDIR of a build is absolute: else its meaning changes with the base image")
            }
            Rule::UndefinedVar => ("UndefinedVar", "a variable is declared by ARG or ENV before it is used"),
            Rule::MultipleInstructionsDisallowed => {
                ("MultipleInstructionsDisallowed", "of several CMD, ENTRYPOINT or HEALTHCHECK in a stage only the last counts")
            }
            Rule::LegacyKeyValueFormat => ("LegacyKeyValueFormat", "ENV and LABEL are written with =, not with a blank"),
            Rule::InvalidBaseImagePlatform => ("InvalidBaseImagePlatform", "a base image is for the platform that is built for"),
            Rule::RedundantTargetPlatform => ("RedundantTargetPlatform", "--platform=$TARGETPLATFORM says what is so anyway"),
            Rule::SecretsUsedInArgOrEnv => (
                "SecretsUsedInArgOrEnv",
                "what ARG and ENV hold stays in the image: secrets are given with RUN --mount=type=secret",
            ),
            Rule::InvalidDefaultArgInFrom => {
                ("InvalidDefaultArgInFrom", "the defaults of the arguments in FROM make a valid image name")
            }
            Rule::FromPlatformFlagConstDisallowed => {
                ("FromPlatformFlagConstDisallowed", "a constant --platform keeps a file from being built for another platform")
            }
            Rule::CopyIgnoredFile => ("CopyIgnoredFile", "COPY and ADD name no file that .dockerignore leaves out"),
            Rule::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "a comment directly above ARG or FROM … AS describes it: # NAME description; an empty line parts other comments",
            ),
            Rule::ExposeProtoCasing => ("ExposeProtoCasing", "protocols of EXPOSE are lower case"),
            Rule::ExposeInvalidFormat => {
                ("ExposeInvalidFormat", "EXPOSE names ports of the container only: no address, no port of the host")
            }
        }
    }
}
